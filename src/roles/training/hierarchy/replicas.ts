import { containsSpan, type Span } from '../../../span.ts'

/** Clients whose servers are remembered in one interval: more than a federation has at a time. */
const MAX_CLIENTS = 4096

/** A server and the blocks that it serves. */
export interface ReplicaServer {
  readonly peer: string
  readonly span: Span
}

/** Blocks `[first, end)` that one server computes for a client until the next average. */
export interface AssignedSpan extends Span {
  readonly server: string
}

/** Who steps parameters of their own between two averages, and for whom: it is kept over restarts. */
export interface ReplicaRecord {
  readonly servers: readonly ReplicaServer[]
  readonly clients: Readonly<Record<string, readonly AssignedSpan[]>>
}

/** The interval between two averages that training is in. */
export interface ReplicasState {
  /** Rounds whose step has been taken. */
  readonly round: number
  readonly replicas: ReplicaRecord | undefined
}

/**
 * The servers that step parameters of their own between two averages, and the clients of each. A client stays with its server until the
 * next average, so that a round that is computed again is computed by the same servers. Servers come in at an average, or at once where
 * nobody else has their blocks. Everything follows from the record, the servers and the order of calls; speed has no part in it.
 */
export class Replicas {
  readonly #state: ReplicasState
  readonly #every: number
  readonly #servers = new Map<string, Span>()
  readonly #clients = new Map<string, AssignedSpan[]>()
  /** The last round that began an interval and had its clients spread anew. */
  #spreadAt: number | undefined

  constructor (state: ReplicasState, every: number) {
    this.#state = state
    this.#every = every
    for (const { peer, span } of state.replicas?.servers ?? []) this.#servers.set(peer, span)
    for (const [client, spans] of Object.entries(state.replicas?.clients ?? {})) this.#clients.set(client, [...spans])
  }

  /** The servers, in the order of their ids. */
  get servers (): readonly ReplicaServer[] {
    return [...this.#servers].map(([peer, span]) => ({ peer, span })).sort((a, b) => a.peer < b.peer ? -1 : 1)
  }

  /** What is to be kept with the next step, which may end with an average. */
  record (isAveraged: boolean): ReplicaRecord {
    return {
      servers: this.servers,
      clients: isAveraged ? {} : Object.fromEntries([...this.#clients].sort(([a], [b]) => a < b ? -1 : 1))
    }
  }

  has (peer: string): boolean { return this.#servers.has(peer) }

  /**
   * Takes in servers that are there now: all of them before the first step after an average, when clients are spread anew, and at other
   * times those that came, or moved to other blocks, and have some that no server has.
   */
  admit (present: readonly ReplicaServer[]): void {
    const { round } = this.#state
    const isBeginning = round % this.#every === 0
    if (isBeginning && this.#spreadAt !== round) {
      this.#clients.clear()
      this.#spreadAt = round
    }
    for (const { peer, span } of present) {
      const known = this.#servers.get(peer)
      const isNew = known?.first !== span.first || known.end !== span.end
      const isWanted = isBeginning || (isNew && blocksOf(span).some((block) => this.#holdersOf(block).length === 0))
      if (isWanted) this.#servers.set(peer, span)
    }
  }

  /** Chooses servers for all blocks of these clients, in the order of the clients' ids, as far as there are servers. */
  assign (clients: ReadonlyArray<Span & { readonly id: string }>): void {
    for (const { id, ...span } of clients.toSorted((a, b) => a.id < b.id ? -1 : 1))
      for (const block of blocksOf(span)) if (this.#holdersOf(block).length > 0) this.serverOf(id, block)
  }

  /** Finds the longest run of blocks from `first` on, before `end`, that the same servers have. Undefined where none has the first. */
  spanFrom (first: number, end: number): Span | undefined {
    const whole = this.#stageAt(first)
    return whole === undefined ? undefined : { first, end: Math.min(whole.end, end) }
  }

  /** Returns the server that computes a block for a client, if one was chosen. */
  assigned (client: string, block: number): string | undefined {
    return this.#clients.get(client)?.find(({ first, end }) => first <= block && block < end)?.server
  }

  /**
   * Returns the server that computes a block for a client. Where none was chosen, it is the one with the fewest clients, and of several the
   * one whose id comes first. Throws RangeError where no server has the block.
   */
  serverOf (client: string, block: number): string {
    const known = this.assigned(client, block)
    if (known !== undefined) return known
    const stage = this.#stageAt(block)
    if (stage === undefined) throw new RangeError(`no server has block ${block}`)
    const loads = this.#holdersOf(block).map((server) => ({
      server,
      clients: [...this.#clients.values()]
        .filter((spans) => spans.some((span) => span.server === server && containsSpan(span, stage))).length
    }))
    const { server } = loads.reduce((least, load) => load.clients < least.clients ? load : least)
    const [oldest] = this.#clients.keys()
    if (oldest !== undefined && !this.#clients.has(client) && this.#clients.size >= MAX_CLIENTS) this.#clients.delete(oldest)
    this.#clients.set(client, [...this.#clients.get(client) ?? [], { ...stage, server }])
    return server
  }

  /** Goes on without a server: its clients are spread over the others. What it learnt stays in the next average. */
  giveUp (server: string): void {
    this.#servers.delete(server)
    for (const [client, spans] of this.#clients) this.#clients.set(client, spans.filter((span) => span.server !== server))
  }

  #holdersOf (block: number): string[] {
    return this.servers.filter(({ span }) => span.first <= block && block < span.end).map(({ peer }) => peer)
  }

  /** The blocks around this one that the same servers have. */
  #stageAt (block: number): Span | undefined {
    if (this.#holdersOf(block).length === 0) return undefined
    const cuts = this.servers.flatMap(({ span }) => [span.first, span.end])
    return { first: Math.max(...cuts.filter((cut) => cut <= block)), end: Math.min(...cuts.filter((cut) => cut > block)) }
  }
}

function blocksOf ({ first, end }: Span): number[] {
  return Array.from({ length: end - first }, (_, index) => first + index)
}

/** Stands between a parameter's name and the server whose gradient it is: no name has it. */
const SERVER_MARK = '@'

/** Names a server's own gradient of a parameter. The parameter's block can still be read from it. */
export function gradientName (name: string, server: string): string {
  return `${name}${SERVER_MARK}${server}`
}

/** Takes apart what `gradientName` returned. */
export function splitGradientName (key: string): { readonly name: string, readonly server: string } {
  const mark = key.lastIndexOf(SERVER_MARK)
  return { name: key.slice(0, mark), server: key.slice(mark + 1) }
}
