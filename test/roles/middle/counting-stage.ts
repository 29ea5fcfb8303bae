import { ChannelResetError } from '../../../src/protocols/wire/errors.ts'
import { chooseRoute, unserved } from '../../../src/roles/middle/route-choice.ts'
import type { ChosenStage, StageSource } from '../../../src/roles/middle/stage-source.ts'
import { checkPosition, tokensOf, type CachedHiddenStates, type StageCache } from '../../../src/roles/middle/stage.ts'
import type { Span } from '../../../src/span.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'

/** Returns states [count, 1] of a sequence from `position` on. */
export function statesAt (position: number, count: number, seed = 0): CachedHiddenStates {
  return {
    tensors: [float32([count, 1], Float32Array.from({ length: count }, (_, i) => Math.fround(Math.sin(seed + position + i))))],
    context: undefined
  }
}

export const numbers = ([tensor]: readonly Tensor[]): number[] => [...tensor!.data as Float32Array]

/**
 * Blocks whose every output depends on its input and on all inputs before it, as attention's does, computed the same however the inputs are
 * cut: a repetition that differs in one bit, is short of a token or in another order gives other outputs.
 */
export class CountingBlocks {
  readonly span: Span
  readonly #inputs: number[][]

  constructor (span: Span) {
    this.span = span
    this.#inputs = Array.from({ length: span.end - span.first }, () => [])
  }

  compute (states: readonly number[], position: number): number[] {
    let values = [...states]
    for (const [index, inputs] of this.#inputs.entries()) {
      inputs.length = position
      values = values.map((value) => {
        inputs.push(value)
        const sum = inputs.reduce((total, input, i) => total + input * (i + 1), 0)
        return Math.fround(value + Math.cos(sum + this.span.first + index))
      })
    }
    return values
  }
}

/** A server of counting blocks, which a test can make fail. */
export class CountingServer {
  readonly id: string
  readonly span: Span
  /** What it was sent, by the first block that it was to compute and in order. */
  readonly received: Array<{ readonly first: number, readonly position: number, readonly values: number[] }> = []
  isDoubtful = false
  opened = 0
  closed = 0
  /** Called with the number of requests so far, of all sequences; throws where this one fails. */
  onRequest: (request: number, signal: AbortSignal | undefined) => Promise<void> | void = () => {}
  onOpen: () => Promise<void> | void = () => {}
  #requests = 0

  constructor (id: string, span: Span) {
    this.id = id
    this.span = span
  }

  async openCache (span: Span, capacity: number): Promise<StageCache> {
    await this.onOpen()
    this.opened++
    const blocks = new CountingBlocks(span)
    let length = 0
    return {
      capacity,
      get length () { return length },
      forward: async (states: CachedHiddenStates, signal?: AbortSignal) => {
        await this.onRequest(++this.#requests, signal)
        const values = numbers(states.tensors)
        this.received.push({ first: span.first, position: length, values })
        const outputs = blocks.compute(values, length)
        length += tokensOf(states.tensors)
        return [float32([outputs.length, 1], outputs)]
      },
      rewind: (position: number) => {
        checkPosition(position, length)
        length = position
      },
      close: async () => {
        this.closed++
        await Promise.resolve()
      }
    }
  }
}

/** Chooses among counting servers, as a client does among those that it knows. */
export class CountingSource implements StageSource {
  readonly servers: CountingServer[]
  readonly failures: Array<readonly [server: string, error: unknown]> = []
  readonly #listeners = new Set<() => void>()

  constructor (servers: readonly CountingServer[]) {
    this.servers = [...servers]
  }

  choose (span: Span): readonly ChosenStage[] | undefined {
    const candidates = this.servers.map(({ id, span: served, isDoubtful }) => ({
      id, span: served, isDoubtful, roundTripMs: undefined, load: undefined
    }))
    return chooseRoute(candidates, span, 'seed')?.legs
      .map((leg) => ({ ...leg, tokenMs: 0, stage: this.servers.find(({ id }) => id === leg.server)! }))
  }

  hasOther (span: Span, server: string): boolean {
    return unserved(this.#sound().filter(({ id }) => id !== server), span).length === 0
  }

  missing (span: Span): readonly Span[] {
    return unserved(this.#sound(), span)
  }

  leaveOut (server: string, error: unknown): void {
    this.failures.push([server, error])
    this.servers.find(({ id }) => id === server)!.isDoubtful = true
  }

  onChanged (listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  /** Makes a change, and tells those who listen. */
  change (change: () => void): void {
    change()
    for (const listener of this.#listeners) listener()
  }

  get listeners (): number { return this.#listeners.size }

  #sound (): CountingServer[] {
    return this.servers.filter(({ isDoubtful }) => !isDoubtful)
  }
}

export function reset (): never {
  throw new ChannelResetError()
}
