import { ANNOUNCE_INTERVAL_MS, type Announcement } from '../../protocols/directory/index.ts'

/** What a server says of itself, without its name, signature and times. */
export type Announced = Omit<Announcement, 'peer' | 'sequence' | 'issuedAtMs' | 'expiresAtMs' | 'bytes'>

/** How often it is looked whether a server has something else to say than before. */
const LOOK_INTERVAL_MS = 10_000

/** Announces a server when it starts, every 30 s, and within 10 s of a change. */
export class Announcer {
  readonly #announced: () => Announced
  readonly #send: (details: Announced & { readonly sequence: number }) => Promise<void>
  #sequence = 0
  #lastMs = -Infinity
  #last = ''
  #timer: NodeJS.Timeout | undefined

  constructor (announced: () => Announced, send: (details: Announced & { readonly sequence: number }) => Promise<void>) {
    this.#announced = announced
    this.#send = send
  }

  /** Announces now, and then again and again until `stop`. Throws what sending throws, the first time. */
  async start (): Promise<void> {
    this.#timer = setInterval(() => { this.#look() }, LOOK_INTERVAL_MS)
    this.#timer.unref()
    await this.announce()
  }

  /** Announces now. */
  async announce (): Promise<void> {
    const announced = this.#announced()
    this.#lastMs = performance.now()
    this.#last = JSON.stringify(announced)
    // The clock makes the number greater than that of any announcement before a restart.
    this.#sequence = Math.max(Date.now(), this.#sequence + 1)
    await this.#send({ ...announced, sequence: this.#sequence })
  }

  stop (): void {
    clearInterval(this.#timer)
  }

  #look (): void {
    if (performance.now() - this.#lastMs < ANNOUNCE_INTERVAL_MS && JSON.stringify(this.#announced()) === this.#last) return
    this.announce().catch(() => {}) // whoever sends notices that its stream broke
  }
}
