import type { PeerId } from '@libp2p/interface'
import type { RouteStatus } from '../../api/status.ts'
import { MAX_CHAIN_SERVERS } from '../../protocols/handover/constants.ts'
import type { Span } from '../../span.ts'
import type { KnownServer, Logger, ServerDirectory } from '../context.ts'
import { chainName, pairsOf } from '../middle/chain-name.ts'
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
  /** Makes a stage of servers that hand over to one another; without it the client carries from each to the next. */
  readonly chainOn?: (servers: ReadonlyArray<{ readonly peerId: PeerId, readonly span: Span }>) => ChosenStage['stage']
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
    const legs = chooseRoute(candidates, span, this.#c.seed)?.legs
    if (legs === undefined) return undefined
    return this.#chains(legs).map((chain) => this.#stage(chain.map((leg) => ({
      ...leg, candidate: candidates.find(({ id }) => id === leg.server)!
    }))))
  }

  /** Returns the choice for people. */
  status (span: Span): RouteStatus {
    const candidates = this.#candidates()
    const roundTrips = new Map(candidates.map(({ id, roundTripMs = null }) => [id, roundTripMs]))
    return {
      legs: (chooseRoute(candidates, span, this.#c.seed)?.legs ?? [])
        .map((leg) => ({ server: leg.server, blocks: leg.span, roundTripMs: roundTrips.get(leg.server) ?? null })),
      missing: this.missing(span)
    }
  }

  hasOther (span: Span, server: string): boolean {
    // Between servers of a chain the client can carry.
    return pairsOf(server).length > 0 || unserved(this.#sound().filter(({ id }) => id !== server), span).length === 0
  }

  missing (span: Span): readonly Span[] {
    return unserved(this.#sound(), span)
  }

  /** Leaves a server out; of a chain, whose servers may all be well, every pair of neighbours, so that the client carries between them. */
  leaveOut (server: string, error: unknown): void {
    const pairs = pairsOf(server)
    if (pairs.length > 0) {
      this.#c.logger.warn({ servers: server, err: error }, 'servers do not hand over to one another: this client carries for a while')
      for (const pair of pairs) this.#c.leftOut.add(pair)
      return
    }
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
    return directory.servers().flatMap(({ peerId, connected, span, roundTripMs, load, isDraining = false }) => {
      const id = peerId.toString()
      return caught.has(id) ? [] : [{ id, peerId, span, roundTripMs, load, isDoubtful: !connected || isDraining || leftOut.has(id) }]
    })
  }

  /** Groups the legs of a route by where servers hand over. */
  #chains (legs: readonly RouteLeg[]): RouteLeg[][] {
    const { chainOn, leftOut } = this.#c
    const chains: RouteLeg[][] = []
    for (const leg of legs) {
      const chain = chains.at(-1)
      const before = chain?.at(-1)
      if (
        chain === undefined || before === undefined || chainOn === undefined || chain.length >= MAX_CHAIN_SERVERS ||
        leftOut.has(chainName([before.server, leg.server]))
      ) {
        chains.push([leg])
      } else {
        chain.push(leg)
      }
    }
    return chains
  }

  /** Makes a stage of a chain of legs, which may be a single one. */
  #stage (legs: ReadonlyArray<RouteLeg & { readonly candidate: Candidate }>): ChosenStage {
    const { stageOn, chainOn } = this.#c
    const span = { first: legs[0]!.span.first, end: legs.at(-1)!.span.end }
    const servers = legs.map((leg) => ({ peerId: leg.candidate.peerId, span: leg.span }))
    const tokenMs = legs.map(({ candidate: { load } }) => 1000 / (load?.prefillTokensPerSecond ?? 0)).reduce((sum, ms) => sum + ms)
    return {
      server: chainName(legs.map(({ server }) => server)),
      span,
      isDoubtful: legs.some(({ isDoubtful }) => isDoubtful),
      stage: servers.length === 1 || chainOn === undefined ? stageOn(servers[0]!.peerId, span) : chainOn(servers),
      tokenMs: Number.isFinite(tokenMs) ? tokenMs : undefined
    }
  }
}
