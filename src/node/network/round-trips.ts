import type { PeerId } from '@libp2p/interface'
import type { Gate } from './gate.ts'
import type { MidspanNode } from './libp2p.ts'

/** How often the way to each connected server is measured: routes are chosen for minutes. */
const MEASURE_INTERVAL_MS = 30_000

/** A server that does not answer in this time has no measured round trip. */
const PING_TIMEOUT_MS = 10_000

/** Measures the round trips to the servers that are connected, when they are greeted and then every 30 s, by libp2p's ping. */
export class RoundTrips {
  readonly #node: MidspanNode
  readonly #gate: Gate
  readonly #measuredMs = new Map<string, number>()
  readonly #stopping = new AbortController()

  constructor (node: MidspanNode, gate: Gate) {
    this.#node = node
    this.#gate = gate
  }

  /** Milliseconds of a message to a connected server and back, as measured last; undefined while nothing was measured. */
  ofServer (peer: string): number | undefined {
    return this.#measuredMs.get(peer)
  }

  start (): void {
    const timer = setInterval(() => {
      for (const { peerId, role } of this.#gate.greeted()) if (role === 'server') void this.#measure(peerId)
    }, MEASURE_INTERVAL_MS)
    timer.unref()
    const offs = [
      this.#gate.onGreeted(({ peerId, role }) => { if (role === 'server') void this.#measure(peerId) }),
      this.#gate.onDisconnect((peerId) => { this.#measuredMs.delete(peerId.toString()) })
    ]
    this.#stopping.signal.addEventListener('abort', () => {
      clearInterval(timer)
      for (const off of offs) off()
    }, { once: true })
  }

  stop (): void {
    this.#stopping.abort()
  }

  async #measure (peerId: PeerId): Promise<void> {
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(PING_TIMEOUT_MS)])
    const roundTripMs = await this.#node.services.ping.ping(peerId, { signal }).catch(() => undefined)
    if (roundTripMs === undefined || !this.#gate.isGreeted(peerId)) this.#measuredMs.delete(peerId.toString())
    else this.#measuredMs.set(peerId.toString(), roundTripMs)
  }
}
