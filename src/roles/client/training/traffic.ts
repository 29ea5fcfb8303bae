export interface Traffic {
  readonly sentBytes: number
  readonly receivedBytes: number
}

/** Bytes on the wire over streams that follow one another. */
export class TrafficMeter {
  /** Of streams that are closed. */
  #closed: Traffic = { sentBytes: 0, receivedBytes: 0 }
  #last: Traffic = { sentBytes: 0, receivedBytes: 0 }

  /** Of all streams that are closed. */
  get total (): Traffic { return this.#closed }

  /** Counts in a stream that is over. */
  close (stream: { readonly traffic: Traffic }): void {
    this.#closed = this.#with(stream)
  }

  /** What has passed since this was last asked, on the stream that is open and others before it. */
  sinceLast (stream: { readonly traffic: Traffic }): Traffic {
    const before = this.#last
    this.#last = this.#with(stream)
    return { sentBytes: this.#last.sentBytes - before.sentBytes, receivedBytes: this.#last.receivedBytes - before.receivedBytes }
  }

  #with ({ traffic: { sentBytes, receivedBytes } }: { readonly traffic: Traffic }): Traffic {
    return { sentBytes: this.#closed.sentBytes + sentBytes, receivedBytes: this.#closed.receivedBytes + receivedBytes }
  }
}
