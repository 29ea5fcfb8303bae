import { z } from 'zod'
import { MidspanError } from '../../errors.ts'
import { readSnapshot, writeSnapshot } from '../../model/checkpoint/snapshot.ts'
import type { Span } from '../../span.ts'
import { isFiniteTensor, type Tensor } from '../../tensor.ts'
import type { ReplicaRecord } from './hierarchy/replicas.ts'

const blockNumber = z.int().min(0)

const spanSchema = z.strictObject({ first: blockNumber, end: blockNumber })

const replicasSchema = z.strictObject({
  servers: z.array(z.strictObject({ peer: z.string(), span: spanSchema })).readonly(),
  clients: z.record(z.string(), z.array(spanSchema.extend({ server: z.string() })).readonly())
})

const metaSchema = z.strictObject({
  federation: z.string(),
  round: z.int().min(0),
  lastTurn: z.string().optional(),
  members: z.array(z.strictObject({ peer: z.string(), span: spanSchema })),
  counted: z.record(z.string(), z.int().min(1)),
  unaveragedTokens: z.record(z.string(), z.record(z.string(), z.number())),
  replicas: replicasSchema.optional()
})

type Meta = z.infer<typeof metaSchema>

/** Reads what a state keeps beside its tensors. Undefined for what is no such thing, or another federation's. */
export function checkTrainingMeta (meta: unknown, federation: string): Meta | undefined {
  const parsed = metaSchema.safeParse(meta)
  return parsed.success && parsed.data.federation === federation ? parsed.data : undefined
}

/** Thrown when a home's training state belongs to another federation or cannot be used. */
export class StateError extends MidspanError {
  constructor (message: string, next?: string) {
    super('E_STATE', message, { next })
  }
}

/** Tokens since the last averaging round, by holder and block. */
export type UnaveragedTokens = Readonly<Record<string, Readonly<Record<string, number>>>>

/** A member, as it is kept over restarts. */
export interface KnownMember {
  readonly peer: string
  readonly span: Span
}

/** A step that was taken, to be made durable. */
export interface Commit {
  /** Rounds whose step has been taken, this one included. */
  readonly round: number
  /** The last peer whose work is in the step. */
  readonly lastTurn: string | undefined
  /** The peers whose work is in the step. */
  readonly counted: readonly string[]
  readonly members: readonly KnownMember[]
  readonly unaveragedTokens: UnaveragedTokens
  /** Which servers have parameters of their own, where they do. */
  readonly replicas?: ReplicaRecord | undefined
  readonly tensors: ReadonlyMap<string, Tensor>
}

/** Training as of the last step that was made durable. */
export interface CommittedState {
  /** Rounds whose step has been taken. */
  readonly round: number
  readonly lastTurn: string | undefined
  readonly members: readonly KnownMember[]
  readonly unaveragedTokens: UnaveragedTokens
  readonly replicas: ReplicaRecord | undefined
  /** Adapters and their optimiser's moments; empty before the first step. */
  readonly tensors: ReadonlyMap<string, Tensor>
  /** One more than the last round whose step contains this peer's work; 0 when there is none. */
  countedRound (peer: string): number
}

/** Training as of a step, as it is copied to a server that may lead one day. */
export interface StateCopy {
  /** Rounds whose step has been taken. */
  readonly round: number
  /** JSON. */
  readonly meta: string
  readonly tensors: ReadonlyMap<string, Tensor>
}

/** Keeps the state of training. */
export interface StateStore extends CommittedState {
  /** Makes a step durable. Only afterwards does the state tell of it. Throws StateError for values that are not finite. */
  commit (step: Commit): Promise<void>
}

/** Keeps the state of training in a file, which is written atomically after every step, before anybody hears of the step. */
export class CoordinatorState implements StateStore {
  /** Whether the newest file was damaged or missing, and the one before it was read. */
  readonly fellBack: boolean
  readonly #path: string
  #meta: Meta
  #tensors: ReadonlyMap<string, Tensor>

  private constructor (path: string, meta: Meta, tensors: ReadonlyMap<string, Tensor>, fellBack: boolean) {
    this.fellBack = fellBack
    this.#path = path
    this.#meta = meta
    this.#tensors = tensors
  }

  /** Reads the state kept at this path; where there is none, it is the state of a federation that has not trained yet. */
  static async open (path: string, federation: string): Promise<CoordinatorState> {
    const snapshot = await readSnapshot(path)
    if (snapshot === undefined)
      return new CoordinatorState(path, { federation, round: 0, members: [], counted: {}, unaveragedTokens: {} }, new Map(), false)
    const meta = metaSchema.safeParse(snapshot.meta)
    if (!meta.success) throw new StateError(`${path} is not a training state: ${z.prettifyError(meta.error).replaceAll('\n', ' ')}`)
    if (meta.data.federation !== federation) throw new StateError(`${path} belongs to another federation`, 'use the home that it came from')
    return new CoordinatorState(path, meta.data, snapshot.tensors, snapshot.fallback)
  }

  get round (): number { return this.#meta.round }
  get lastTurn (): string | undefined { return this.#meta.lastTurn }
  get members (): readonly KnownMember[] { return this.#meta.members }
  get unaveragedTokens (): UnaveragedTokens { return this.#meta.unaveragedTokens }
  get replicas (): ReplicaRecord | undefined { return this.#meta.replicas }
  get tensors (): ReadonlyMap<string, Tensor> { return this.#tensors }

  /** All that is kept, for a copy elsewhere. */
  get copy (): StateCopy {
    return { round: this.#meta.round, meta: JSON.stringify(this.#meta), tensors: this.#tensors }
  }

  countedRound (peer: string): number {
    return this.#meta.counted[peer] ?? 0
  }

  async commit ({ tensors, counted, lastTurn, replicas, ...rest }: Commit): Promise<void> {
    for (const [name, value] of tensors)
      if (!isFiniteTensor(value)) throw new StateError(`${name} would not be finite after round ${rest.round - 1}`)
    const meta: Meta = {
      federation: this.#meta.federation,
      ...rest,
      members: [...rest.members],
      counted: { ...this.#meta.counted, ...Object.fromEntries(counted.map((peer) => [peer, rest.round])) },
      ...(lastTurn === undefined ? {} : { lastTurn }),
      ...(replicas === undefined ? {} : { replicas })
    }
    await writeSnapshot(this.#path, { meta, tensors: new Map(tensors) })
    this.#meta = meta
    this.#tensors = tensors
  }
}
