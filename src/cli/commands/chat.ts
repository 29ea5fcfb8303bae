import { chat as runChat } from '../chat/chat.ts'
import { Conversation } from '../chat/conversation.ts'
import { Keyboard } from '../chat/keyboard.ts'
import { command } from '../command.ts'
import { askDaemon, callDaemon } from '../daemon-client.ts'
import { readMessages } from '../messages-file.ts'
import { defaulted, grouped, optional } from '../option.ts'
import { sampling, timeout, withheldWords } from '../shared-options.ts'
import { integer, path } from '../values.ts'

export const chat = command({
  name: 'chat',
  group: 'Work',
  withoutReader: 'stops',
  summary: 'Chat with the model across the network',
  details:
    `Each line is a question, and the conversation so far goes with it. Ctrl-C stops an answer, and Ctrl-D ends the chat; /help shows what else can be
typed. Through a pipe, each line of standard input is a question, and standard output has the answers alone. The model needs a chat template.`,
  options: {
    ...grouped('Input', {
      system: optional('TEXT', String, 'How the model is told to answer', 'nothing'),
      messages: optional('FILE', path, 'A conversation to go on with, as /save writes it', 'none')
    }),
    ...grouped('Sampling', {
      maxTokens: defaulted('COUNT', integer({ min: 1 }), '512', 'Tokens of an answer at most'),
      ...sampling
    }),
    ...grouped('Privacy', { withhold: withheldWords }),
    ...grouped('Network', { timeout })
  },
  examples: [
    { command: 'midspan chat --home a --temperature 0.7', about: 'talk' },
    { command: "echo 'What is a router?' | midspan chat --home a", about: 'one question from a script' }
  ],
  async run ({ home, system, messages, maxTokens, temperature, topK, topP, seed, withhold, timeout }, { terminal, signal }) {
    const conversation = new Conversation(messages === undefined ? [] : await readMessages(messages))
    if (system !== undefined) conversation.setSystem(system)
    const { federation } = await askDaemon(home, 'status', {}, signal, terminal)
    const keyboard = new Keyboard({ input: process.stdin, echo: process.stderr }, (text) => { terminal.note(text) })
    if (keyboard.isTerminal) terminal.note(`${federation.name}: /help shows what can be typed, Ctrl-D ends the chat`)
    try {
      await runChat({
        conversation,
        keyboard,
        terminal,
        answer: (asked, until) =>
          callDaemon(home, 'generate', { messages: asked, maxTokens, temperature, topK, topP, seed, withhold, timeoutMs: timeout }, until)
      }, signal)
    } finally {
      keyboard.close()
    }
  }
})
