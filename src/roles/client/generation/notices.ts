/** What a user has to be told while an operation waits for something else. */
export class Notices {
  readonly #reasons: string[] = []
  #wake: (() => void) | undefined

  add (reason: string): void {
    this.#reasons.push(reason)
    this.#wake?.()
  }

  /** Yields what another generator yields, with notices among it as soon as they come. */
  async * among<Event extends object> (events: AsyncGenerator<Event>): AsyncGenerator<Event | { readonly notice: string }> {
    try {
      for (;;) {
        const next = events.next()
        for await (const notice of this.#until(next)) yield { notice }
        const result = await next
        if (result.done === true) return
        yield result.value
      }
    } finally {
      await events.return(undefined)
    }
  }

  /** Yields notices until something is settled. */
  async * #until (promise: Promise<unknown>): AsyncGenerator<string> {
    let settled = false
    const settle = (): void => {
      settled = true
      this.#wake?.()
    }
    promise.then(settle, settle)
    while (!settled) {
      const { promise: woken, resolve } = Promise.withResolvers<void>()
      this.#wake = resolve
      if (this.#reasons.length === 0) await woken
      yield * this.#reasons.splice(0)
    }
  }
}
