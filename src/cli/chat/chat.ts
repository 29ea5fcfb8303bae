import type { EventOf } from '../../api/operations.ts'
import { asFileError, MidspanError } from '../../errors.ts'
import { errorLine } from '../exit.ts'
import { bytes, digits, plural, seconds } from '../format.ts'
import { writeMessages, type Messages } from '../messages-file.ts'
import type { Terminal } from '../terminal.ts'
import { ProgressLine } from '../views/progress-line.ts'
import type { Conversation } from './conversation.ts'
import { CHAT_COMMANDS, readInputLine, type ChatCommand } from './input-line.ts'
import type { Keyboard } from './keyboard.ts'

export interface ChatParts {
  readonly conversation: Conversation
  readonly keyboard: Pick<Keyboard, 'isTerminal' | 'line' | 'whileAnswering'>
  readonly terminal: Terminal
  /** Answers a conversation, as the operation `generate` does. */
  readonly answer: (messages: Messages, signal: AbortSignal) => AsyncIterable<EventOf<'generate'>>
}

/**
 * Chats until the input ends or the signal aborts. On a terminal, a question that fails is told, and the chat goes on; through a pipe, the
 * failure is thrown.
 */
export async function chat (parts: ChatParts, signal: AbortSignal): Promise<void> {
  const { keyboard, terminal } = parts
  for (;;) {
    const line = await keyboard.line(signal)
    if (line === undefined) return
    const read = readInputLine(line)
    if (read.kind === 'command' && read.name === 'exit') return
    try {
      if (read.kind === 'unknown') terminal.note(`There is no /${read.name}: /help shows what there is, and // begins a question with /`)
      else if (read.kind === 'command' && read.name !== 'exit') await obey(parts, read.name, read.argument)
      else if (read.kind === 'question') await ask(parts, read.text, signal)
    } catch (error) {
      signal.throwIfAborted()
      if (!keyboard.isTerminal || !(error instanceof MidspanError)) throw error
      terminal.note(errorLine(error))
    }
  }
}

async function ask ({ conversation, keyboard, terminal, answer }: ChatParts, question: string, signal: AbortSignal): Promise<void> {
  const progress = new ProgressLine(terminal)
  let text = ''
  await keyboard.whileAnswering(async (interrupted) => {
    try {
      for await (const event of answer(conversation.asking(question), AbortSignal.any([signal, interrupted]))) {
        if (event.type === 'waiting') {
          progress.wait(event.reason)
          continue
        }
        progress.clear()
        if (event.type === 'text') {
          text += event.text
          terminal.writeForeign(event.text)
        }
        if (event.type === 'done') {
          conversation.count(event)
          terminal.write('\n')
          if (event.reason === 'context') terminal.note('The conversation is as long as a sequence of this federation: /reset begins another one')
        }
      }
    } catch (error) {
      progress.clear()
      if (text !== '') terminal.write('\n')
      if (!interrupted.aborted || signal.aborted) throw error
      terminal.note('Stopped')
    } finally {
      conversation.answered(question, text)
    }
  })
}

async function obey ({ conversation, terminal }: ChatParts, name: Exclude<ChatCommand, 'exit'>, argument: string): Promise<void> {
  switch (name) {
    case 'help':
      for (const [command, about] of Object.entries(CHAT_COMMANDS)) terminal.note(`/${command} ${about}`)
      return
    case 'system':
      conversation.setSystem(argument)
      return
    case 'reset':
      conversation.reset()
      return
    case 'save':
      if (argument === '') terminal.note('/save needs a file: /save talk.json')
      else await save(conversation.messages, argument, terminal)
      return
    case 'stats':
      for (const line of statsLines(conversation)) terminal.note(line)
  }
}

async function save (messages: Messages, file: string, terminal: Terminal): Promise<void> {
  try {
    await writeMessages(file, messages)
    terminal.note(`Wrote ${plural(messages.length, 'message')} to ${file}`)
  } catch (error) {
    throw asFileError(error) ?? error
  }
}

function statsLines ({ messages, totals, last }: Conversation): readonly string[] {
  const { answers, tokens, decodeSeconds, sentBytes, receivedBytes } = totals
  if (last === undefined) return ['Nothing was answered yet']
  return [
    `Last answer: ${plural(last.tokens, 'token')} at ${digits(last.tokensPerSecond)} tokens/s, ` +
      `after ${plural(last.promptTokens, 'token')} read in ${seconds(last.prefillSeconds)}`,
    `All ${plural(answers, 'answer')}: ${plural(tokens, 'token')} in ${seconds(decodeSeconds)}, ` +
      `sent ${bytes(sentBytes)}, received ${bytes(receivedBytes)}`,
    `The conversation has ${plural(messages.length, 'message')}`
  ]
}
