import { setImmediate as turn } from 'node:timers/promises'
import type { EventOf, GivenParameters, OperationName, ResultOf } from '../../../src/api/operations.ts'
import type { Backend } from '../../../src/node/http/backend.ts'

type Generate = GivenParameters<'generate'>

/** A daemon that answers as a test wants it to, for tests of what stands before it. */
export class ScriptedBackend implements Backend {
  /** The parameters of the texts that were asked for. */
  readonly asked: Generate[] = []
  /** Texts that are under way, and the most that were at any time. */
  active = 0
  mostActive = 0
  /** How many texts ended before their end. */
  ended = 0
  readonly #script: (parameters: Generate, signal: AbortSignal) => AsyncIterable<EventOf<'generate'>>

  constructor (script: (parameters: Generate, signal: AbortSignal) => AsyncIterable<EventOf<'generate'>>) {
    this.#script = script
  }

  stream<Name extends OperationName> (
    operation: Name,
    parameters: GivenParameters<Name>,
    signal: AbortSignal
  ): AsyncIterable<EventOf<Name>> {
    if (operation !== 'generate') throw new Error(`${operation} is not in the script`)
    return this.#generate(parameters as Generate, signal) as AsyncIterable<EventOf<Name>>
  }

  async * #generate (parameters: Generate, signal: AbortSignal): AsyncGenerator<EventOf<'generate'>> {
    this.asked.push(parameters)
    this.active++
    this.mostActive = Math.max(this.mostActive, this.active)
    let whole = false
    try {
      for await (const event of this.#script(parameters, signal)) {
        await turn()
        signal.throwIfAborted()
        yield event
      }
      whole = true
    } finally {
      this.active--
      if (!whole) this.ended++
    }
  }
}

/** The last event of a text. */
export function done (text: string, changes: Partial<ResultOf<'generate'>> = {}): ResultOf<'generate'> {
  return {
    type: 'done',
    text,
    ids: [],
    reason: 'stop',
    promptTokens: 5,
    tokens: 3,
    prefillSeconds: 0,
    decodeSeconds: 0,
    tokensPerSecond: 0,
    sentBytes: 0,
    receivedBytes: 0,
    route: [],
    networkShare: 0,
    roundTrips: 3,
    releasedStates: 7,
    reusedTokens: 0,
    draftedTokens: 0,
    acceptedTokens: 0,
    ...changes
  }
}

/** Events of a text in these pieces. */
export async function * pieces (...texts: string[]): AsyncGenerator<EventOf<'generate'>> {
  for (const text of texts) yield { type: 'text', text }
  yield done(texts.join(''))
}

/** A text that goes on until it is told to end. */
export async function * endless (signal: AbortSignal): AsyncGenerator<EventOf<'generate'>> {
  yield { type: 'text', text: 'It goes on' }
  await new Promise((_, reject) => { signal.addEventListener('abort', () => { reject(signal.reason as Error) }, { once: true }) })
}
