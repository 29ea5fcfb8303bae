/** What a request is for, the most urgent first: somebody waits for an interactive one; a batch one is one of many. */
export const priorities = ['interactive', 'batch'] as const
export type Priority = typeof priorities[number]

/** A request to take consecutive tokens of one sequence through the server's blocks. */
export interface PendingRequest {
  /** Names the sequence. A sequence has at most one request at a time. */
  readonly id: string
  /** Names the client that the tokens count against. */
  readonly client: string
  /** The client's share beside those of others: one of weight 2 is served two tokens for one of a client of weight 1. An integer. */
  readonly weight: number
  readonly priority: Priority
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
  /** Tokens of prompts in a run while decode steps wait. They make those steps wait, so they are fewer. */
  readonly maxPrefillTokens: number
  /** A request with this number of tokens left, or fewer, is a decode step; others are prompts, which are prefilled in chunks. */
  readonly maxDecodeTokens: number
  /** Sequences that share a run. It bounds the number of programs, which differ by the number of sequences. */
  readonly maxSequences: number
  /** Prompt tokens that a client gets before another client is considered again. */
  readonly quantum: number
  /** Runs after which a request that got nothing comes before all others. */
  readonly maxWaitRuns: number
  /** What a run takes besides its tokens, in the time of a token. Where it is large, steps of many sequences cost little more than one. */
  readonly overheadTokens: number
}

/** What the scheduler remembers from one plan for the next. */
export interface SchedulerHistory {
  /**
   * The tokens that each client has been served over its weight, for the clients that were served more than the least served client with a
   * request. A client that is not named counts as served as much as that one.
   */
  readonly served: ReadonlyMap<string, number>
  /** Whether the last plan was an indivisible chunk beyond the budget, which makes decode steps wait. */
  readonly wasAlone: boolean
  /** The runs in a row that each waiting request had no token in, by its id; 0 for one that is not named. */
  readonly waits: ReadonlyMap<string, number>
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

export const NO_HISTORY: SchedulerHistory = { served: new Map(), wasAlone: false, waits: new Map() }

/** The share of a run's places, and of its prompt tokens, that batch requests get while interactive ones would take all. */
const BATCH_SHARE = 1 / 4

/**
 * How much longer a run of decode steps may take for the surplus of some clients, than it would take for the clients that ask for no more
 * than their turn: these keep six eighths of the server.
 */
const SURPLUS_SLOWDOWN = 8 / 6

/**
 * Plans the next run: decode steps first, then chunks of prompts with what is left of the token budget; interactive ones before batch ones,
 * which have a share of their own. The client that has been served the fewest tokens over its weight comes first, and a client's requests
 * follow in the order of their arrival (the virtual token counter of https://arxiv.org/abs/2401.00588: a deficit round robin whose rounds
 * need no end). So:
 *
 * - A run has at most `maxBatchedTokens` tokens and `maxSequences` sequences. The one exception is an indivisible chunk for which the
 *   budget beside the decode steps is too small: it runs alone, and never in two runs one after the other while a decode step waits.
 * - Decode steps are planned turn after turn, in each of which every client has as many as its weight. Every client has a step in every
 *   other run, unless there are more clients than places. Steps beyond a client's turn go into the run up to the SURPLUS_SLOWDOWN of
 *   those who have all of theirs in it.
 * - While prompts wait that can be cut anywhere, one of them gets at least one token in every run that is not another's alone.
 * - The served tokens over the weights of two clients that both have prompts waiting grow apart by at most `quantum` and the largest
 *   indivisible chunk, besides their decode steps, where a run has a place for every sequence and nothing is overdue.
 * - A request that got nothing in `maxWaitRuns` runs comes first, the one that waits longest before others, one of each client in a run.
 *   Nothing waits for more than `maxWaitRuns` runs and one for each request there is; where some are indivisible, for twice as many.
 *
 * It is a pure function: equal states give equal plans. The plan is empty only where there are no requests.
 */
export function schedule ({ requests, history }: SchedulerState, limits: SchedulerLimits): Plan {
  return new Planner(requests, history, limits).plan()
}

class Planner {
  readonly #requests: readonly PendingRequest[]
  readonly #history: SchedulerHistory
  readonly #limits: SchedulerLimits
  readonly #ledger: Ledger
  readonly #chunks = new Map<string, number>()
  /** What is left to be planned: a request that has what it can get is taken out. */
  readonly #decodes: PendingRequest[]
  readonly #prompts: PendingRequest[]
  #left: number
  /** What prompts may have of `left`. */
  #prefillLeft: number
  #hasPrompt = false
  /** By client: decode steps that were planned, their tokens, and the steps that were not. */
  readonly #steps = new Map<string, { planned: number, tokens: number, left: number }>()

  constructor (requests: readonly PendingRequest[], history: SchedulerHistory, limits: SchedulerLimits) {
    this.#requests = requests
    this.#history = history
    this.#limits = limits
    this.#ledger = new Ledger(requests, history)
    this.#decodes = requests.filter(({ tokens }) => tokens <= limits.maxDecodeTokens)
    this.#prompts = requests.filter(({ tokens }) => tokens > limits.maxDecodeTokens)
    this.#left = this.#prefillLeft = limits.maxBatchedTokens
    for (const { client } of this.#decodes) {
      const left = this.#steps.get(client)?.left ?? 0
      this.#steps.set(client, { planned: 0, tokens: 0, left: left + 1 })
    }
  }

  plan (): Plan {
    const { maxBatchedTokens, maxPrefillTokens, maxDecodeTokens, quantum } = this.#limits
    const overdue = this.#overdue()
    const first = overdue.find(({ tokens }) => tokens > maxDecodeTokens) ?? this.#nextPrompt('interactive') ?? this.#nextPrompt('batch')
    const isTooLarge = first !== undefined && first.indivisible > 1 && first.indivisible > maxBatchedTokens - sum(this.#decodes)
    if (isTooLarge && (this.#decodes.length === 0 || !this.#history.wasAlone)) {
      this.#add(first, first.indivisible)
      return this.#planned(true)
    }
    if (isTooLarge) remove(this.#prompts, first)
    if (this.#decodes.length > 0)
      this.#prefillLeft = Math.min(this.#left, Math.max(maxPrefillTokens, isTooLarge ? 0 : first?.indivisible ?? 0))

    for (const request of overdue) {
      if (this.#prompts.includes(request)) this.#prefill(request, quantum)
      else if (request.tokens > maxDecodeTokens) continue
      else if (this.#chunks.size < this.#limits.maxSequences - this.#keptForPrompt) this.#step(request)
    }
    for (const priority of priorities) this.#decode(priority)
    const next = this.#nextPrompt('interactive') ?? this.#nextPrompt('batch')
    if (!this.#hasPrompt && next !== undefined) this.#prefillLeft = Math.min(this.#left, Math.max(this.#prefillLeft, next.indivisible))
    const kept = this.#prompts.some(({ priority }) => priority === 'batch') ? Math.floor(this.#prefillLeft * BATCH_SHARE) : 0
    const goesOn = this.#prefillAll('interactive', kept)
    this.#prefillAll('batch', 0)
    if (goesOn) this.#prefillAll('interactive', 0)
    return this.#planned(false)
  }

  /** Returns the request of each client that got nothing for the longest, of those that waited too long; the longest first. */
  #overdue (): PendingRequest[] {
    const { waits } = this.#history
    const clients = new Set<string>()
    return this.#requests
      .filter(({ id }) => (waits.get(id) ?? 0) >= this.#limits.maxWaitRuns)
      .sort((a, b) => waits.get(b.id)! - waits.get(a.id)!)
      .filter(({ client }) => !clients.has(client) && clients.add(client))
  }

  /** Plans decode steps of a priority, turn after turn. Places are kept for a prompt, and for steps of the priorities after it. */
  #decode (priority: Priority): void {
    const { maxSequences } = this.#limits
    const steps = this.#decodes.filter((request) => request.priority === priority)
    const others = priority === 'batch' ? 0 : this.#decodes.length - steps.length
    const kept = this.#keptForPrompt + Math.min(others, Math.floor(maxSequences * BATCH_SHARE))
    for (let step = this.#nextStep(steps); step !== undefined; step = this.#nextStep(steps)) {
      // What is surplus for this step is so for all that follow it.
      if (this.#chunks.size >= maxSequences - kept || this.#isSurplus(step)) return
      remove(steps, step)
      this.#step(step)
    }
  }

  /** Returns the next step: of a client that had the fewest turns in this run, and of those the one that was served least. */
  #nextStep (steps: readonly PendingRequest[]): PendingRequest | undefined {
    const turns = ({ client, weight }: PendingRequest): number => Math.floor(this.#steps.get(client)!.planned / weight)
    const fewest = steps.reduce((least, step) => Math.min(least, turns(step)), Infinity)
    return this.#ledger.next(steps.filter((step) => turns(step) === fewest))
  }

  /** Says whether a step beyond its client's turn would slow those down who have all their steps in the run. */
  #isSurplus ({ client, weight, tokens }: PendingRequest): boolean {
    if (this.#steps.get(client)!.planned < weight) return false
    const { overheadTokens } = this.#limits
    let [all, settled] = [0, 0]
    for (const { tokens: own, left } of this.#steps.values()) {
      all += own
      if (left === 0) settled += own
    }
    return settled > 0 && overheadTokens + all + tokens > (overheadTokens + settled) * SURPLUS_SLOWDOWN
  }

  /** Plans a decode step where the budget has room for it. */
  #step (step: PendingRequest): void {
    if (step.tokens > this.#left - this.#keptForPrompt) return
    const { planned, tokens, left } = this.#steps.get(step.client)!
    this.#steps.set(step.client, { planned: planned + 1, tokens: tokens + step.tokens, left: left - 1 })
    remove(this.#decodes, step)
    this.#add(step, step.tokens)
  }

  /** The places, and the tokens, that decode steps leave to prompts: one while none of these is planned. */
  get #keptForPrompt (): number {
    return this.#prompts.length === 0 || this.#hasPrompt ? 0 : 1
  }

  /** Shares what prompts may have, but for what is kept, among the prompts of a priority. Returns whether they may have more of it. */
  #prefillAll (priority: Priority, kept: number): boolean {
    const { quantum } = this.#limits
    for (let prompt = this.#nextPrompt(priority); prompt !== undefined && this.#prefillLeft > kept; prompt = this.#nextPrompt(priority)) {
      const hasRoom = this.#prefill(prompt, Math.min(quantum, this.#prefillLeft - kept))
      // What is left is too little for the one whose turn it is: others, who had more, do not get it.
      if (!hasRoom && this.#hasPrompt) return false
    }
    return true
  }

  /** Plans up to `most` tokens of a prompt, and takes it out where it can get no more. Returns whether there are tokens enough for it. */
  #prefill (prompt: PendingRequest, most: number): boolean {
    const before = this.#chunks.get(prompt.id) ?? 0
    const least = before > 0 ? 1 : prompt.indivisible
    const given = Math.min(this.#left, this.#prefillLeft, prompt.tokens - before, Math.max(least, most))
    const hasRoom = given >= least
    const fits = hasRoom && (before > 0 || this.#chunks.size < this.#limits.maxSequences)
    if (fits) {
      this.#add(prompt, given)
      this.#prefillLeft -= given
    }
    if (!fits || before + given === prompt.tokens) remove(this.#prompts, prompt)
    if (fits) this.#hasPrompt = true
    return hasRoom
  }

  #nextPrompt (priority: Priority): PendingRequest | undefined {
    return this.#ledger.next(this.#prompts.filter((prompt) => prompt.priority === priority))
  }

  #add ({ id, client, weight }: PendingRequest, tokens: number): void {
    this.#chunks.set(id, (this.#chunks.get(id) ?? 0) + tokens)
    this.#ledger.serve(client, tokens / weight)
    this.#left -= tokens
  }

  #planned (wasAlone: boolean): Plan {
    const { waits } = this.#history
    return {
      chunks: [...this.#chunks].map(([id, tokens]) => ({ id, tokens })).sort((a, b) => a.id < b.id ? -1 : 1),
      history: {
        served: this.#ledger.served(),
        wasAlone,
        waits: new Map(this.#requests.filter(({ id }) => !this.#chunks.has(id)).map(({ id }) => [id, (waits.get(id) ?? 0) + 1]))
      }
    }
  }
}

/** Counts the tokens that the clients with requests have been served, over their weights. */
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

  /** Counts tokens over the client's weight. */
  serve (client: string, share: number): void {
    this.#served.set(client, this.#count(client) + share)
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

function remove (requests: PendingRequest[], request: PendingRequest): void {
  const index = requests.indexOf(request)
  if (index >= 0) requests.splice(index, 1)
}

function sum (requests: readonly PendingRequest[]): number {
  return requests.reduce((total, { tokens }) => total + tokens, 0)
}
