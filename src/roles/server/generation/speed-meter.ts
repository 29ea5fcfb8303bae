/** Runs that a speed is measured over: the middle one of so many does not follow a single slow or lucky one. */
const RUNS = 33

/** A run of so many tokens or more is counted as prefill: its time is that of its tokens, and no longer that of the run itself. */
const PREFILL_TOKENS = 32

/** What a run of the engine took. */
export interface MeasuredRun {
  /** Tokens of all sequences in it. */
  readonly tokens: number
  /** Blocks that each token passed, on average. */
  readonly blocks: number
  readonly ms: number
}

/** Measures how fast a server computes, over the runs that it had to do anyway. */
export class SpeedMeter {
  readonly #blocks: number
  /** Milliseconds a token, through all blocks. */
  readonly #decodeMs: number[] = []
  readonly #prefillMs: number[] = []

  /** `blocks` is the number of blocks that the server has. */
  constructor (blocks: number) {
    this.#blocks = blocks
  }

  /** Tokens a second through all blocks, one at a time; 0 while nothing was measured. */
  get decodeTokensPerSecond (): number { return speedOf(this.#decodeMs) }

  /** Tokens a second through all blocks, many at a time; 0 while nothing was measured. */
  get prefillTokensPerSecond (): number { return speedOf(this.#prefillMs) }

  /** What a run takes besides its tokens, in the time of one more token; 0 while it was not measured. */
  get overheadTokens (): number {
    const [alone, another] = [middleOf(this.#decodeMs), middleOf(this.#prefillMs)]
    return alone > another && another > 0 ? alone / another - 1 : 0
  }

  /** Counts a run. One of a few tokens says nothing of either speed. */
  add ({ tokens, blocks, ms }: MeasuredRun): void {
    const list = tokens === 1 ? this.#decodeMs : tokens >= PREFILL_TOKENS ? this.#prefillMs : undefined
    if (list === undefined || blocks === 0) return
    list.push(ms / tokens * this.#blocks / blocks)
    if (list.length > RUNS) list.shift()
  }
}

/** Returns tokens a second by the middle one of times in milliseconds. */
function speedOf (times: readonly number[]): number {
  const ms = middleOf(times)
  return ms > 0 ? 1000 / ms : 0
}

function middleOf (times: readonly number[]): number {
  return times.toSorted((a, b) => a - b)[Math.floor(times.length / 2)] ?? 0
}
