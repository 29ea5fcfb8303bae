import type { Message } from '../../src/api/generate.ts'

/** Kinds of text by how much of an answer stands in its prompt. */
export type TextKind = 'open' | 'summarise' | 'extract' | 'edit' | 'code' | 'multi-turn'

export interface LatencyPrompt {
  readonly kind: TextKind
  readonly messages: readonly Message[]
}

const PASSAGES = [
  'The river Aune rises in the hills above Brenholm and flows for 82 kilometres to the sea. In 1904 the town built a mill on its left bank, ' +
    'which ground barley until 1961. Since 1998 the mill has been a museum. Each spring, when the snow melts, the river floods the lower ' +
    'meadows, and the museum closes for two weeks. Last year 14,200 people came, most of them school classes from the coast.',
  'Meeting of the garden club on 3 March. Present: Ilse Brandt, Omar Nasser, Petra Lund and Tom Okafor. The club will plant 120 apple trees ' +
    'on the slope behind the school. Omar orders the trees by 15 March; they cost 18 euros each. Petra asks the town for water. Tom repairs ' +
    'the old pump. The next meeting is on 7 April at the house of Ilse Brandt.',
  'The library opens at nine in the morning and closes at six in the evening. On Saturdays it closes at one, and on Sundays it is closed. ' +
    'A card costs 12 euros a year, and children pay nothing. Books may be kept for four weeks and films for one. Whoever is late pays 20 ' +
    'cents a day. The reading room on the second floor has 40 places, a printer and a coffee machine.',
  'Our new bicycle lamp weighs 64 grams and burns for 11 hours on one charge. It has three levels of light, and the lowest one blinks. The ' +
    'case is made of aluminium and is closed against rain. The lamp is charged through USB-C in two hours. It comes in black, silver and ' +
    'red, and costs 39 euros. Customers who return their old lamp get 5 euros back.',
  'Dear Ms Varga, thank you for your letter of 11 June. The heating in your flat was repaired on Tuesday by the company Holm and Sons. They ' +
    'replaced the valve in the kitchen and the thermostat in the hall. The bill of 310 euros is paid by the house. If the flat is still ' +
    'cold, please call Mr Holm at any time. We are sorry that you had to wait for nine days. Yours, the house office.',
  'Bees find their way by the sun. A bee that has found flowers flies back to the hive and dances. The direction of the dance says in which ' +
    'direction the flowers are, and its length says how far away they are. Other bees follow the dance in the dark with their feelers. On ' +
    'cloudy days bees see the light of the sun through the clouds, because the light swings in one direction only.',
  'The night train leaves Lindau at 21:40 and reaches Trieste at 7:15. It has two sleeping cars, one car with seats and one for bicycles. ' +
    'A bed costs 59 euros, a seat 29 euros, and a bicycle 10 euros. Breakfast is served from six. Between May and September the train runs ' +
    'each night, and in winter on Fridays and Saturdays only. Dogs travel free in the car with seats.'
]

const OPEN = [
  'Tell a short story about a lighthouse keeper who finds a map.', 'Explain to a child why the sky is blue.', 'Give me some advice for my first day at a new job.',
  'Describe a quiet morning in a small harbour.', 'What should I think of when I buy a used bicycle?', 'Write a short letter to a friend who moved to another country.',
  'Why do people like music?'
]

const EDITS = [
  'Repeat this text, but write "creek" in place of "river".', 'Repeat this text, but write "pear trees" in place of "apple trees".',
  'Correct any mistakes in this text and repeat it.', 'Repeat this text, but write "torch" in place of "lamp".', 'Repeat this text, but begin with "Dear Mr Novak".',
  'Repeat this text, but write "wasps" in place of "bees".', 'Repeat this text, but write "Vienna" in place of "Lindau".'
]

const QUESTIONS = [
  'List all numbers in this text, each with what it says.', 'Who does what by when? List each person with the task, in the words of the text.',
  'Copy the sentences that say what something costs.', 'List the properties of the lamp, in the words of the text.', 'Copy the sentences that name a person or a company.',
  'Copy the sentences that say what a dance tells.', 'List all prices and times, in the words of the text.'
]

const CODE = [
  'Write a Python function that returns the largest number in a list, and a second one that returns the smallest.',
  'Add a docstring to this function and repeat it:\n\ndef mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)',
  'Rename the variable "a" to "count" in this code and repeat it:\n\na = 0\nfor line in lines:\n    if line.startswith("#"):\n        a = a + 1\nprint(a)',
  'Write a JavaScript class named Stack with the methods push, pop and size.', 'Write an SQL statement that creates a table of books, and three that insert books.',
  'Write a Python class named Account with the methods deposit, withdraw and balance.'
]

const TURNS: ReadonlyArray<readonly [passage: number, question: string, answer: string, next: string]> = [
  [0, 'How long is the river?', 'The river Aune is 82 kilometres long. It rises in the hills above Brenholm and flows to the sea.', 'And when was the mill built, and what is it now?'],
  [1, 'What will the club plant?', 'The club will plant 120 apple trees on the slope behind the school.', 'What do the trees cost, who orders them, and when is the next meeting?'],
  [2, 'When is the library open on Saturdays?', 'On Saturdays the library opens at nine in the morning and closes at one.', 'And what does a card cost, and how long may books be kept?'],
  [3, 'How heavy is the lamp?', 'The bicycle lamp weighs 64 grams.', 'How long does it burn, in which colours does it come, and what does it cost?'],
  [5, 'How do bees find their way?', 'Bees find their way by the sun. A bee that has found flowers flies back to the hive and dances.', 'What do the direction and the length of the dance say?'],
  [6, 'When does the train leave?', 'The night train leaves Lindau at 21:40 and reaches Trieste at 7:15.', 'And what do a bed, a seat and a bicycle cost?']
]

const user = (content: string): Message => ({ role: 'user', content })

/** Forty prompts of six kinds, each kind's one after another. */
export const latencyPrompts: readonly LatencyPrompt[] = [
  ...OPEN.map((text) => ({ kind: 'open' as const, messages: [user(text)] })),
  ...PASSAGES.map((text) => ({ kind: 'summarise' as const, messages: [user(`Summarise this text in a few sentences.\n\n${text}`)] })),
  ...PASSAGES.map((text, i) => ({ kind: 'extract' as const, messages: [user(`${QUESTIONS[i]}\n\n${text}`)] })),
  ...PASSAGES.map((text, i) => ({ kind: 'edit' as const, messages: [user(`${EDITS[i]}\n\n${text}`)] })),
  ...CODE.map((text) => ({ kind: 'code' as const, messages: [user(text)] })),
  ...TURNS.map(([passage, question, answer, next]) => ({
    kind: 'multi-turn' as const,
    messages: [user(`${PASSAGES[passage]}\n\n${question}`), { role: 'assistant', content: answer }, user(next)]
  }))
]
