/**
 * Texts of several kinds that a model is calibrated on where the founder gives none: what hidden states look like depends on text, and
 * random tokens are unlike any. They were written for Midspan and are in no corpus.
 */
export const SAMPLE_TEXTS: readonly string[] = [
  'The ferry had been late all week, so nobody on the quay was surprised when the bell rang at ten past eight instead of half past seven. \
Marta pulled her scarf tighter and watched the lights of the far shore come and go behind the rain. She had promised her brother that she \
would be there before the shop opened, and she had the keys in her pocket, which meant that he was standing in front of a locked door. \
"He will manage," said the man beside her, as if she had spoken aloud. "They always do."',
  `"Did you remember to call the plumber?" asked Jonas without looking up from the newspaper.
"I called him twice. He says he can come on Thursday, but only if we move the washing machine ourselves."
"Both of us together cannot move that machine."
"Then we need to find somebody with a strong back before Thursday, or we will be washing our shirts by hand for another week."
"My cousin owes me a favour," Jonas said, and turned the page.`,
  'Patients who take this medicine for longer than four weeks should have their blood pressure measured at every visit. If the reading is \
above 140 over 90 on two occasions, the dose is halved and the patient is seen again after seven days. The most common side effects are \
headache, a dry mouth and trouble sleeping; they usually pass within the first week. Tell your doctor if you are pregnant, or if you take \
any other medicine, including those that you can buy without a prescription.',
  `def moving_average(values, width):
    """Return the mean of each run of \`width\` consecutive values."""
    if width < 1 or width > len(values):
        raise ValueError("width must be between 1 and the number of values")
    total = sum(values[:width])
    means = [total / width]
    for i in range(width, len(values)):
        total += values[i] - values[i - width]
        means.append(total / width)
    return means


print(moving_average([3, 5, 8, 13, 21], 2))`,
  `Question: Why does bread rise when it is left in a warm place?
Answer: The yeast in the dough eats sugar and gives off carbon dioxide. The gas is caught in the dough as small bubbles, because the gluten \
in the flour makes the dough stretch instead of letting the gas escape. Warmth makes the yeast work faster. In the oven the bubbles grow \
once more, and then the heat sets the dough around them.
Question: Can the same be done without yeast?
Answer: Yes. Baking powder and sourdough both make the gas that lifts the dough.`,
  `Dear Ms Okafor,
Thank you for your letter of 3 March about invoice 20417. We have looked into the matter and found that the second delivery was charged \
twice. The amount of 186.50 euros will be returned to your account within five working days, and you need not do anything. We are sorry \
for the trouble that this has caused you. If you have further questions, please write to us or call our office between nine and five.
Yours sincerely,
Henrik Dahl`,
  'The city lies on both banks of the river, about forty kilometres from the sea. It was founded in the twelfth century around a bridge at \
which merchants paid a toll, and it grew rich when wool from the hills began to be traded there. After the great fire of 1624 most houses \
were built again in brick. Today it has some 210,000 inhabitants, a university and a small airport; the old harbour is no longer used by \
ships, and its warehouses have been turned into flats and restaurants.',
  `Customer: I was charged a fee when I took out money abroad, and the app does not say why.
Agent: I am sorry about that. Was it at a cash machine, or in a shop?
Customer: At a cash machine in Lisbon, last Friday evening.
Agent: Thank you. I can see it here: 2.50 is our own fee, and the rest was added by the bank that owns the machine. Since it is your first \
time, I can give back our part.
Customer: That would be great. And how do I avoid it next time?
Agent: Take out larger amounts less often, or pay by card directly.`
]
