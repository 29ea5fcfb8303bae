import type { PeerId } from '@libp2p/interface'
import type { RouteStatus } from '../../api/status.ts'
import type { Span } from '../../span.ts'
import type { KnownServer, Logger, ServerDirectory } from '../context.ts'
import { chooseRoute, unserved, type RouteCandidate, type RouteLeg } from '../middle/route-choice.ts'
import type { ChosenStage, StageSource } from '../middle/stage-source.ts'
import type { LeftOutServers } from './left-out.ts'
import type { CaughtServers } from './verification/caught-servers.ts'

export interface ServerChoiceComponents {
  readonly directory: ServerDirectory
  readonly leftOut: LeftOutServers
  /** The servers that were caught computing wrong: nothing is computed on them. */
  readonly caught: Pick<CaughtServers, 'has'>
  /**
   * Decides among servers that are equally fast. A client gives the same one for all of its sequences: each further server that carries
   * them sees more of what it released.
   */
  readonly seed: string
  readonly logger: Logger
  /** Makes a stage of a server. */
  readonly stageOn: (server: PeerId, span: Span) => ChosenStage['stage']
}

type Candidate = RouteCandidate & Pick<KnownServer, 'peerId'>

/** Chooses the servers of a client's route from those that the client knows. */
export class ServerChoice implements StageSource {
  readonly #c: ServerChoiceComponents

  constructor (components: ServerChoiceComponents) {
    this.#c = components
  }

  choose (span: Span): readonly ChosenStage[] | undefined {
    const candidates = this.#candidates()
    return chooseRoute(candidates, span, this.#c.seed)?.legs.map((leg) => this.#stage(leg, candidates.find(({ id }) => id === leg.server)!))
  }

  /** Returns the choice for people. */
  status (span: Span): RouteStatus {
    const roundTrips = new Map(this.#candidates().map(({ id, roundTripMs = null }) => [id, roundTripMs]))
    return {
      legs: (this.choose(span) ?? []).map(({ server, span: blocks }) => ({ server, blocks, roundTripMs: roundTrips.get(server) ?? null })),
      missing: this.missing(span)
    }
  }

  hasOther (span: Span, server: string): boolean {
    return unserved(this.#sound().filter(({ id }) => id !== server), span).length === 0
  }

  missing (span: Span): readonly Span[] {
    return unserved(this.#sound(), span)
  }

  leaveOut (server: string, error: unknown): void {
    this.#c.logger.warn({ server, err: error }, 'a server failed: routes leave it out for a while')
    this.#c.leftOut.add(server)
  }

  onChanged (listener: () => void): () => void {
    return this.#c.directory.onServersChanged(listener)
  }

  #sound (): Candidate[] {
    return this.#candidates().filter(({ isDoubtful }) => !isDoubtful)
  }

  #candidates (): Candidate[] {
    const { directory, leftOut, caught } = this.#c
    return directory.servers().flatMap(({ peerId, connected, span, roundTripMs, load }) => {
      const id = peerId.toString()
      return caught.has(id) ? [] : [{ id, peerId, span, roundTripMs, load, isDoubtful: !connected || leftOut.has(id) }]
    })
  }

  #stage ({ server, span, isDoubtful }: RouteLeg, { peerId, load }: Candidate): ChosenStage {
    const speed = load?.prefillTokensPerSecond ?? 0
    return { server, span, isDoubtful, stage: this.#c.stageOn(peerId, span), tokenMs: speed > 0 ? 1000 / speed : undefined }
  }
}
