/** Who computes on a server's device: a run of generation, or a bounded run of training. */
export type DeviceUser = 'generation' | 'training'

/** The share of the time that training has of a device for which generation waits all the time. */
const TRAINING_SHARE = 1 / 4

/** Runs of one pass of training follow one another within this time. What a pass had beyond its share is not held against the next one. */
const PASS_GAP_MS = 100

interface Waiting {
  readonly user: DeviceUser
  readonly begin: () => void
}

/**
 * Lets runs of generation and of training take turns on one device. A run of generation goes first, but where training has had less than
 * its share of the time that both wanted; and never two runs of training go before one of generation that waits. So a token waits for one
 * run of training at most, and training goes on beside any number of texts. Runs of one user come in the order in which they were asked
 * for.
 */
export class DeviceTurns {
  readonly #waiting: Waiting[] = []
  readonly #now: () => number
  #taken: DeviceUser | undefined
  #last: DeviceUser | undefined
  /** Whether generation asks for its next run at once. */
  #goesOn = false
  /** Milliseconds that training is owed of the time that both wanted; below 0, what it has had beyond its share. */
  #owedMs = 0
  #trainedAtMs = -Infinity

  constructor (now: () => number = () => performance.now()) {
    this.#now = now
  }

  /** Does a run of generation. `goesOn` says at its end whether another one will be asked for at once, which then counts as waiting. */
  async generation<T> (run: () => Promise<T>, goesOn: () => boolean = () => false): Promise<T> {
    this.#goesOn = false
    return await this.#take('generation', run, (ms) => {
      if (this.#wants('training')) this.#owedMs += ms * TRAINING_SHARE / (1 - TRAINING_SHARE)
      this.#goesOn = goesOn()
    })
  }

  /** Takes back that generation would go on: no other run follows now. */
  rest (): void {
    this.#goesOn = false
    this.#next()
  }

  /** Does a run of training, which should take about as long as one of generation. */
  async training<T> (run: () => Promise<T>): Promise<T> {
    if (this.#now() - this.#trainedAtMs > PASS_GAP_MS) this.#owedMs = Math.max(0, this.#owedMs)
    return await this.#take('training', run, (ms) => {
      if (this.#wants('generation')) this.#owedMs -= ms
      this.#trainedAtMs = this.#now()
    })
  }

  async #take<T> (user: DeviceUser, run: () => Promise<T>, ended: (ms: number) => void): Promise<T> {
    await new Promise<void>((resolve) => {
      this.#waiting.push({ user, begin: resolve })
      this.#next()
    })
    const startedAtMs = this.#now()
    try {
      return await run()
    } finally {
      ended(this.#now() - startedAtMs)
      this.#last = user
      this.#taken = undefined
      this.#next()
    }
  }

  #wants (user: DeviceUser): boolean {
    return this.#waiting.some((waiting) => waiting.user === user) || (user === 'generation' && this.#goesOn)
  }

  #next (): void {
    if (this.#taken !== undefined) return
    const trains = this.#wants('training') && (!this.#wants('generation') || (this.#owedMs > 0 && this.#last === 'generation'))
    const index = this.#waiting.findIndex(({ user }) => user === (trains ? 'training' : 'generation'))
    if (index < 0) return
    const [next] = this.#waiting.splice(index, 1) as [Waiting]
    this.#taken = next.user
    next.begin()
  }
}
