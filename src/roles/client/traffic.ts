export interface Traffic {
  readonly sentBytes: number
  readonly receivedBytes: number
}

/** Something that bytes pass through, such as a session. */
interface Counted {
  readonly traffic: Traffic
}

/** Counts bytes on the wire over sessions that follow one another. */
export class TrafficMeter {
  /** Bytes of the sessions that are over. */
  #over: Traffic = { sentBytes: 0, receivedBytes: 0 }
  #current: Counted | undefined
  #last: Traffic = { sentBytes: 0, receivedBytes: 0 }

  /** Counts a session from now on, in place of the one before, which is over. Returns it. */
  watch<Session extends Counted> (session: Session): Session {
    this.#over = this.total
    this.#current = session
    return session
  }

  /** Bytes of all sessions. */
  get total (): Traffic {
    const { sentBytes, receivedBytes } = this.#current?.traffic ?? { sentBytes: 0, receivedBytes: 0 }
    return { sentBytes: this.#over.sentBytes + sentBytes, receivedBytes: this.#over.receivedBytes + receivedBytes }
  }

  /** Returns the bytes since this was last asked. */
  sinceLast (): Traffic {
    const before = this.#last
    this.#last = this.total
    return { sentBytes: this.#last.sentBytes - before.sentBytes, receivedBytes: this.#last.receivedBytes - before.receivedBytes }
  }
}
