import { z } from 'zod'
import { MidspanError } from '../../errors.ts'
import { readSnapshot, writeSnapshot } from '../../model/checkpoint/snapshot.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'

const blockNumber = z.int().min(0)

const metaSchema = z.strictObject({
  federation: z.string(),
  round: z.int().min(0),
  lastTurn: z.string().optional(),
  members: z.array(z.strictObject({ peer: z.string(), span: z.strictObject({ first: blockNumber, end: blockNumber }) })),
  counted: z.record(z.string(), z.int().min(1)),
  unaveragedTokens: z.record(z.string(), z.record(z.string(), z.number()))
})

type Meta = z.infer<typeof metaSchema>

/** Thrown when a home's training state belongs to another federation or cannot be used. */
export class StateError extends MidspanError {
  constructor (message: string, next?: string) {
    super('E_STATE', message, { next })
  }
}

export interface Commit {
  /** Rounds whose step has been taken. */
  readonly round: number
  readonly lastTurn: string | undefined
  /** Whose work is in the last of them. */
  readonly counted: readonly string[]
  readonly members: ReadonlyArray<{ peer: string, span: Span }>
  /** Tokens since the last averaging round, by holder and block. */
  readonly unaveragedTokens: Meta['unaveragedTokens']
  readonly tensors: ReadonlyMap<string, Tensor>
}

/** What the server must not lose: written atomically after every step, before anybody hears of it. */
export class CoordinatorState {
  readonly #path: string
  #meta: Meta
  #tensors: ReadonlyMap<string, Tensor>

  private constructor (path: string, meta: Meta, tensors: ReadonlyMap<string, Tensor>) {
    this.#path = path
    this.#meta = meta
    this.#tensors = tensors
  }

  /** The state kept at this path, or the state of a federation that has not trained yet. */
  static async open (path: string, federation: string): Promise<CoordinatorState> {
    const snapshot = await readSnapshot(path)
    if (snapshot === undefined)
      return new CoordinatorState(path, { federation, round: 0, members: [], counted: {}, unaveragedTokens: {} }, new Map())
    const meta = metaSchema.safeParse(snapshot.meta)
    if (!meta.success) throw new StateError(`${path} is not a training state: ${z.prettifyError(meta.error).replaceAll('\n', ' ')}`)
    if (meta.data.federation !== federation) throw new StateError(`${path} belongs to another federation`, 'use the home that it came from')
    return new CoordinatorState(path, meta.data, snapshot.tensors)
  }

  get round (): number { return this.#meta.round }
  get lastTurn (): string | undefined { return this.#meta.lastTurn }
  get members (): Meta['members'] { return this.#meta.members }
  get unaveragedTokens (): Meta['unaveragedTokens'] { return this.#meta.unaveragedTokens }
  /** Adapters and their optimiser's moments as of the last commit; empty before the first. */
  get tensors (): ReadonlyMap<string, Tensor> { return this.#tensors }

  /** One more than the last round whose step contains this peer's work; 0 when there is none. */
  countedRound (peer: string): number {
    return this.#meta.counted[peer] ?? 0
  }

  /** Makes a step durable. Only afterwards does this object tell of it. */
  async commit ({ tensors, counted, lastTurn, ...rest }: Commit): Promise<void> {
    const meta: Meta = {
      federation: this.#meta.federation,
      ...rest,
      members: [...rest.members],
      counted: { ...this.#meta.counted, ...Object.fromEntries(counted.map((peer) => [peer, rest.round])) },
      ...(lastTurn === undefined ? {} : { lastTurn })
    }
    await writeSnapshot(this.#path, { meta, tensors: new Map(tensors) })
    this.#meta = meta
    this.#tensors = tensors
  }
}
