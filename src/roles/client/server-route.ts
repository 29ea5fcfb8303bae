import type { PeerId } from '@libp2p/interface'
import type { Model } from '../../model/families/index.ts'
import type { Charter, Partition } from '../../protocols/charter/schema.ts'
import type { GenerateClientChannel } from '../../protocols/generate/messages.ts'
import type { Span } from '../../span.ts'
import type { ClientContext } from '../context.ts'
import { HandOverStage } from '../middle/hand-over-stage.ts'
import { RemoteStage, type StageSessions } from '../middle/remote-stage.ts'
import { RouteCache, type RouteOptions } from '../middle/route-cache.ts'
import { Route } from '../middle/route.ts'
import type { Stage } from '../middle/stage.ts'
import type { LeftOutServers } from './left-out.ts'
import { ServerChoice, type ServerChoiceComponents } from './server-choice.ts'
import type { CaughtServers } from './verification/caught-servers.ts'

export interface ServerRouteSettings {
  readonly charter: Charter
  readonly partition: Partition
}

/** Returns the blocks between a client's own. */
export function middleOf ({ model: { blocks } }: Charter, { inputBlocks, outputBlocks }: Partition): Span {
  return { first: inputBlocks, end: blocks - outputBlocks }
}

/** Returns a route through the middle over the training stream: the coordinator sees to it that all of it is computed. */
export function routeOf (sessions: Required<Pick<StageSessions, 'training'>>, { charter, partition }: ServerRouteSettings): Route {
  const { wire, model: { hidden } } = charter
  return new Route([new RemoteStage(sessions, { span: middleOf(charter, partition), format: { wire, hidden } })])
}

/** What stages that compute sequences are made of. */
export interface GenerationStageComponents {
  readonly context: Pick<ClientContext, 'charter'>
  readonly sessions: {
    generation (server: PeerId, options?: { readonly mayBeSilent?: boolean }, signal?: AbortSignal): Promise<GenerateClientChannel>
  }
  readonly adapters: { readonly round: number }
}

export interface GenerationRouteComponents extends GenerationStageComponents {
  readonly context: Pick<ClientContext, 'charter' | 'client' | 'logger' | 'peerId' | 'servers' | 'onServersChanged'>
  readonly leftOut: LeftOutServers
  readonly caught: Pick<CaughtServers, 'has'>
}

export interface GenerationRouteOptions extends RouteOptions {
  /** Whether servers hand hidden states over to one another where they can. */
  readonly handOver: boolean
  /** Whether the text is one of many for which nobody waits: servers compute those of others first. */
  readonly isBatch?: boolean
}

/** Returns how hidden states are sent again: rotations of a model whose base grows depend on how many come at once. */
export function replayOptions ({ rotary }: Model): Pick<RouteOptions, 'replayTokens'> {
  return rotary.growth === undefined ? {} : { replayTokens: 1 }
}

/** Returns how stages that compute sequences are made of servers. `isBatch` says that nobody waits for these. */
export function generationStages (
  { context: { charter: { wire, model: { hidden } } }, sessions, adapters }: GenerationStageComponents,
  isBatch = false
): (server: PeerId, span: Span) => RemoteStage {
  return (server, span) =>
    new RemoteStage(
      { openGeneration: async (signal) => await sessions.generation(server, {}, signal) },
      { span, format: { wire, hidden }, round: adapters.round, isBatch }
    )
}

/** Returns how stages are made of servers that hand over to one another. */
function chainStages (
  { context: { charter: { wire, model: { hidden } } }, sessions, adapters }: GenerationStageComponents,
  isBatch: boolean
): Required<ServerChoiceComponents>['chainOn'] {
  return (servers) =>
    new HandOverStage(servers.map(({ peerId, span }) => ({
      server: peerId.toString(),
      span,
      openGeneration: async (signal) => await sessions.generation(peerId, { mayBeSilent: true }, signal)
    })), { format: { wire, hidden }, round: adapters.round, isBatch })
}

/** Returns the choice among the servers that a client knows, for its sequences; where `handOver`, of servers that do. */
export function serverChoice (components: GenerationRouteComponents, handOver = true, isBatch = false): ServerChoice {
  const { context, leftOut, caught } = components
  const { logger, peerId } = context
  return new ServerChoice({
    directory: context,
    leftOut,
    caught,
    seed: peerId.toString(),
    logger,
    stageOn: generationStages(components, isBatch),
    ...handOver ? { chainOn: chainStages(components, isBatch) } : {}
  })
}

/** Returns a route for sequences through the middle: each opening chooses among the servers that the client knows then. */
export function generationRoute (
  components: GenerationRouteComponents,
  { handOver, isBatch, ...options }: GenerationRouteOptions
): Pick<Stage, 'span' | 'openCache'> {
  const { charter, client: { partition } } = components.context
  const source = serverChoice(components, handOver, isBatch)
  return {
    span: middleOf(charter, partition),
    openCache: async (span, capacity, signal) => await RouteCache.open(source, span, { ...options, capacity }, signal)
  }
}
