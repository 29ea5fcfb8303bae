/** A request to take consecutive tokens of one sequence through the server's blocks. */
export interface PendingRequest {
  /** Names the sequence. A sequence has at most one request at a time. */
  readonly id: string
  /** Names the client that the tokens count against. */
  readonly client: string
  /** The tokens that are still to be computed, at least 1. */
  readonly tokens: number
  /** The number of tokens, from the first on, that one run must compute together; 1 for a request that may be cut anywhere. */
  readonly indivisible: number
}

/** What one run carries: the next `tokens` tokens of each of these sequences, in the order of their ids. */
export interface PlannedChunk {
  readonly id: string
  readonly tokens: number
}

export interface SchedulerLimits {
  /** The token budget: tokens of all sequences that share a run. */
  readonly maxBatchedTokens: number
  /** Tokens of prompts in a run that has decode steps too. They make those steps wait, so they are fewer. */
  readonly maxPrefillTokens: number
  /** A request with this number of tokens left, or fewer, is a decode step; others are prompts, which are prefilled in chunks. */
  readonly maxDecodeTokens: number
  /** Sequences that share a run. It bounds the number of programs, which differ by the number of sequences. */
  readonly maxSequences: number
  /** Prompt tokens that a client gets before another client is considered again. */
  readonly quantum: number
}

/** What the scheduler remembers from one plan for the next. */
export interface SchedulerHistory {
  /**
   * The tokens that each client has been served, for the clients that were served more than the least served client with a request. A
   * client that is not named counts as served as much as that one.
   */
  readonly served: ReadonlyMap<string, number>
  /** Whether the last plan was an indivisible chunk beyond the budget, which makes decode steps wait. */
  readonly wasAlone: boolean
}

export interface SchedulerState {
  /** All running and waiting requests, the oldest first. */
  readonly requests: readonly PendingRequest[]
  readonly history: SchedulerHistory
}

export interface Plan {
  readonly chunks: readonly PlannedChunk[]
  /** What the next plan has to be made with. */
  readonly history: SchedulerHistory
}

export const NO_HISTORY: SchedulerHistory = { served: new Map(), wasAlone: false }

/**
 * Plans the next run: decode steps first, then chunks of prompts with what is left of the token budget. The client that has been served the
 * fewest tokens comes first, among decode steps and among prompts, and a client's requests follow in the order of their arrival (the
 * virtual token counter of https://arxiv.org/abs/2401.00588). So:
 *
 * - A run has at most `maxBatchedTokens` tokens and `maxSequences` sequences. The one exception is an indivisible chunk for which the
 *   budget beside the decode steps is too small: it runs alone, and never in two runs one after the other while a decode step waits.
 * - Every decode step is in every other run, unless there are more of them than a run may have.
 * - While prompts wait that can be cut anywhere, one of them gets at least one token in every run that is not another's alone.
 * - The served tokens of two clients that both have prompts waiting grow apart by at most `quantum` and the largest indivisible chunk,
 *   besides their decode steps, where a run has a place for every sequence.
 *
 * It is a pure function: equal states give equal plans. The plan is empty only where there are no requests.
 */
export function schedule ({ requests, history }: SchedulerState, limits: SchedulerLimits): Plan {
  const { maxBatchedTokens, maxPrefillTokens, maxDecodeTokens, maxSequences, quantum } = limits
  const ledger = new Ledger(requests, history)
  const chunks = new Map<string, number>()
  const planned = (wasAlone: boolean): Plan => ({ chunks: inOrder(chunks), history: { served: ledger.served(), wasAlone } })
  const decodes = requests.filter(({ tokens }) => tokens <= maxDecodeTokens)
  const prompts = requests.filter(({ tokens }) => tokens > maxDecodeTokens)

  const first = ledger.next(prompts)
  if (first !== undefined && first.indivisible > 1 && first.indivisible > maxBatchedTokens - sum(decodes)) {
    if (decodes.length === 0 || !history.wasAlone) {
      chunks.set(first.id, first.indivisible)
      ledger.serve(first.client, first.indivisible)
      return planned(true)
    }
    prompts.splice(prompts.indexOf(first), 1)
  }

  // A place and a token are kept for a prompt, however many decode steps there are.
  const kept = prompts.length === 0 ? 0 : 1
  let left = maxBatchedTokens
  for (let step = ledger.next(decodes); step !== undefined && chunks.size < maxSequences - kept; step = ledger.next(decodes)) {
    decodes.splice(decodes.indexOf(step), 1)
    if (step.tokens > left - kept) continue
    chunks.set(step.id, step.tokens)
    ledger.serve(step.client, step.tokens)
    left -= step.tokens
  }

  if (chunks.size > 0) left = Math.min(left, Math.max(maxPrefillTokens, ledger.next(prompts)?.indivisible ?? 0))
  for (let prompt = ledger.next(prompts); prompt !== undefined && left > 0; prompt = ledger.next(prompts)) {
    const { id, client, tokens, indivisible } = prompt
    const before = chunks.get(id) ?? 0
    const least = before === 0 ? indivisible : 1
    const given = Math.min(left, tokens - before, Math.max(least, quantum))
    const fits = given >= least && (before > 0 || chunks.size < maxSequences)
    if (fits) {
      chunks.set(id, before + given)
      ledger.serve(client, given)
      left -= given
    }
    if (!fits || before + given === tokens) prompts.splice(prompts.indexOf(prompt), 1)
  }
  return planned(false)
}

/** Counts the tokens that the clients with requests have been served. */
class Ledger {
  readonly #served: Map<string, number>
  readonly #active: ReadonlySet<string>

  constructor (requests: readonly PendingRequest[], { served }: SchedulerHistory) {
    this.#active = new Set(requests.map(({ client }) => client))
    // A client without a count joins at the level of the least served client, so that a pause earns nothing.
    const counts = [...this.#active].map((client) => served.get(client)).filter((count) => count !== undefined)
    const floor = counts.length === 0 ? 0 : Math.min(...counts)
    this.#served = new Map(served)
    for (const client of this.#active) this.#served.set(client, served.get(client) ?? floor)
  }

  /** Returns the oldest of these requests of the least served client; of clients with equal counts, the first by name. */
  next (requests: readonly PendingRequest[]): PendingRequest | undefined {
    let best: PendingRequest | undefined
    for (const request of requests) {
      if (best === undefined || this.#compare(request.client, best.client) < 0) best = request
    }
    return best
  }

  serve (client: string, tokens: number): void {
    this.#served.set(client, this.#count(client) + tokens)
  }

  /**
   * Returns what the next plan needs to know: counts above that of the least served active client, less that count, and the active ones.
   */
  served (): ReadonlyMap<string, number> {
    const floor = Math.min(...[...this.#active].map((client) => this.#count(client)))
    return new Map(
      [...this.#served]
        .map(([client, count]) => [client, count - floor] as const)
        .filter(([client, count]) => count > 0 || this.#active.has(client))
    )
  }

  #compare (a: string, b: string): number {
    return this.#count(a) - this.#count(b) || (a < b ? -1 : Number(a > b))
  }

  #count (client: string): number {
    return this.#served.get(client) ?? 0
  }
}

function inOrder (chunks: ReadonlyMap<string, number>): PlannedChunk[] {
  return [...chunks].map(([id, tokens]) => ({ id, tokens })).sort((a, b) => a.id < b.id ? -1 : 1)
}

function sum (requests: readonly PendingRequest[]): number {
  return requests.reduce((total, { tokens }) => total + tokens, 0)
}
