import { readFile, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { describe, expect, it } from 'vitest'
import type { EventOf } from '../../../src/api/operations.ts'
import { chat } from '../../../src/cli/chat/chat.ts'
import { Conversation } from '../../../src/cli/chat/conversation.ts'
import { Keyboard } from '../../../src/cli/chat/keyboard.ts'
import type { Messages } from '../../../src/cli/messages-file.ts'
import { MidspanError } from '../../../src/errors.ts'
import { temporaryDirectory } from '../../node/fixture.ts'
import { done } from '../../node/http/scripted-backend.ts'
import { recordedTerminal } from '../helpers.ts'

const CTRL_C = '\u0003'
const never = new AbortController().signal

type Answer = (messages: Messages, signal: AbortSignal) => AsyncIterable<EventOf<'generate'>>

/** The content of a message of these tests, which is text. */
function contentOf ({ content }: Messages[number]): string {
  return content as string
}

/** Answers with the last message, turned around. */
const echo: Answer = async function * (messages) {
  const text = [...contentOf(messages.at(-1)!)].reverse().join('')
  yield { type: 'text', text }
  yield done(text)
}

class Keys extends PassThrough {
  readonly isTTY: boolean
  constructor (isTTY: boolean) {
    super()
    this.isTTY = isTTY
  }
}

interface Started {
  readonly input: Keys
  readonly conversation: Conversation
  readonly out: () => string
  readonly err: () => string
  readonly over: Promise<void>
  /** Waits until this was written. */
  readonly seen: (text: string) => Promise<void>
}

function start (isTTY: boolean, answer: Answer = echo): Started {
  const input = new Keys(isTTY)
  const { terminal, out, err } = recordedTerminal(isTTY, { TERM: 'dumb' })
  const keyboard = new Keyboard({ input, echo: err }, (text) => { terminal.note(text) })
  const conversation = new Conversation()
  const written = { out: '', err: '' }
  const collect = (): void => {
    written.out += out.text
    written.err += err.text
  }
  return {
    input,
    conversation,
    out: () => { collect(); return written.out },
    err: () => { collect(); return written.err },
    over: chat({ conversation, keyboard, terminal, answer }, never).finally(() => { keyboard.close() }),
    seen: async (text) => {
      while (!(collect(), written.out + written.err).includes(text)) await new Promise((resolve) => setTimeout(resolve, 1))
    }
  }
}

describe('a chat through a pipe', () => {
  it('takes a line for a question, and writes the answers alone', async () => {
    const { input, out, err, over, conversation } = start(false)
    input.end('abc\n\n  def \nghi')
    await over
    expect([out(), err()]).toEqual(['cba\nfed\nihg\n', ''])
    expect(conversation.messages.map((message) => `${message.role}: ${contentOf(message)}`)).toEqual([
      'user: abc', 'assistant: cba', 'user: def', 'assistant: fed', 'user: ghi', 'assistant: ihg'
    ])
  })

  it('ends with the failure of a question', async () => {
    const { input, over } = start(false, async function * () { throw new MidspanError('E_NO_SERVER', 'nobody') })
    input.end('abc\n')
    await expect(over).rejects.toThrow('nobody')
  })

  it('sends the conversation so far with each question, and obeys what begins with /', async () => {
    const asked: Messages[] = []
    const { input, over, conversation, err } = start(false, async function * (messages) {
      asked.push(messages)
      yield * echo(messages, never)
    })
    input.end('/system Be brief\none\n//two\n/reset\n/nonsense\n/system Be long\nthree\n/system\n/exit\nnever asked\n')
    await over
    const brief = { role: 'system', content: 'Be brief' }
    const one = [{ role: 'user', content: 'one' }, { role: 'assistant', content: 'eno' }]
    expect(asked).toEqual([
      [brief, one[0]], [brief, ...one, { role: 'user', content: '/two' }], [{ role: 'system', content: 'Be long' }, { role: 'user', content: 'three' }]
    ])
    expect(conversation.messages.map(({ role }) => role)).toEqual(['user', 'assistant'])
    expect(err()).toContain('There is no /nonsense')
  })

  it('saves the conversation for its owner alone', async () => {
    const file = join(await temporaryDirectory(), 'talk.json')
    const { input, over, conversation } = start(false)
    input.end(`abc\n/save ${file}\n`)
    await over
    expect(JSON.parse(await readFile(file, 'utf8'))).toEqual(conversation.messages)
    expect((await stat(file)).mode & 0o777).toBe(0o600)
  })

  it('saves a conversation over one that was saved, and over nothing else', async () => {
    const directory = await temporaryDirectory()
    const [file, other, link] = [join(directory, 'talk.json'), join(directory, 'other.txt'), join(directory, 'link')]
    await writeFile(other, 'as it was')
    await symlink(other, link)
    const { input, over } = start(false)
    input.end(`/save ${file}\nabc\n/save ${file}\n`)
    await over
    expect(JSON.parse(await readFile(file, 'utf8'))).toHaveLength(2)
    for (const path of [other, link, directory]) {
      const { input, over } = start(false)
      input.end(`abc\n/save ${path}\n`)
      await expect(over).rejects.toMatchObject({ message: `${path} holds something other than a conversation` })
    }
    expect(await readFile(other, 'utf8')).toBe('as it was')
  })

  it('shows help and statistics', async () => {
    const { input, over, err } = start(false)
    input.end('/stats\nabc\n/stats\n/help\n')
    await over
    expect(err()).toMatch(/Nothing was answered yet\nLast answer: 3 tokens .*\nAll 1 answer: 3 tokens .*\nThe conversation has 2 messages\n\/help /)
  })
})

describe('a chat on a terminal', () => {
  const slow: Answer = async function * (_, signal) {
    yield { type: 'text', text: 'It goes' }
    await new Promise((_, reject) => { signal.addEventListener('abort', () => { reject(signal.reason as Error) }) })
  }

  it('stops an answer by Ctrl-C, keeps what came of it, and goes on', async () => {
    let answers = 0
    const answer: Answer = (messages, signal) => answers++ === 0 ? slow(messages, signal) : echo(messages, signal)
    const { input, over, conversation, seen } = start(true, answer)
    input.write('first\r')
    await seen('It goes')
    input.write(CTRL_C)
    await seen('Stopped')
    input.write('second\r')
    await seen('dnoces')
    input.write('/exit\r')
    await over
    expect(conversation.messages.map(({ content }) => content)).toEqual(['first', 'It goes', 'second', 'dnoces'])
  })

  it('tells a failure and goes on, and forgets the question', async () => {
    let failed = false
    const { input, over, conversation, seen } = start(true, async function * (messages) {
      if (!failed) {
        failed = true
        throw new MidspanError('E_NO_SERVER', 'nobody serves block 3', { next: 'wait' })
      }
      yield * echo(messages, never)
    })
    input.write('first\r')
    await seen('midspan: nobody serves block 3 (wait)')
    input.write('second\r')
    await seen('dnoces')
    input.end()
    await over
    expect(conversation.messages.map(({ content }) => content)).toEqual(['second', 'dnoces'])
  })

  it('takes back a line by Ctrl-C, and ends by two of them in a row', async () => {
    const { input, over, conversation, seen } = start(true)
    input.write(`half a li${CTRL_C}`)
    input.write('whole\r')
    await seen('elohw')
    input.write(CTRL_C)
    await seen('Ctrl-C again')
    input.write(CTRL_C)
    await over
    expect(conversation.messages.map(({ content }) => content)).toEqual(['whole', 'elohw'])
  })
})
