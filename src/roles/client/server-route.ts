import type { PeerId } from '@libp2p/interface'
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
import { ServerChoice } from './server-choice.ts'

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

export interface GenerationRouteComponents {
  readonly context: Pick<ClientContext, 'charter' | 'client' | 'logger' | 'peerId' | 'servers' | 'onServersChanged'>
  readonly leftOut: LeftOutServers
  readonly sessions: {
    generation (server: PeerId, options?: { readonly mayBeSilent?: boolean }, signal?: AbortSignal): Promise<GenerateClientChannel>
  }
  readonly adapters: { readonly round: number }
}

export interface GenerationRouteOptions extends RouteOptions {
  /** Whether servers hand hidden states over to one another where they can. */
  readonly handOver: boolean
}

/** Returns the choice among the servers that a client knows, for its sequences; where `handOver`, of servers that do. */
export function serverChoice ({ context, leftOut, sessions, adapters }: GenerationRouteComponents, handOver = true): ServerChoice {
  const { charter: { wire, model: { hidden } }, logger, peerId } = context
  const format = { wire, hidden }
  return new ServerChoice({
    directory: context,
    leftOut,
    seed: peerId.toString(),
    logger,
    stageOn: (server, span) =>
      new RemoteStage(
        { openGeneration: async (signal) => await sessions.generation(server, {}, signal) },
        { span, format, round: adapters.round }
      ),
    ...handOver
      ? {
        chainOn: (servers) =>
          new HandOverStage(servers.map(({ peerId: server, span }) => ({
            server: server.toString(),
            span,
            openGeneration: async (signal) => await sessions.generation(server, { mayBeSilent: true }, signal)
          })), { format, round: adapters.round })
      }
      : {}
  })
}

/** Returns a route for sequences through the middle: each opening chooses among the servers that the client knows then. */
export function generationRoute (
  components: GenerationRouteComponents,
  { handOver, ...options }: GenerationRouteOptions
): Pick<Stage, 'span' | 'openCache'> {
  const { charter, client: { partition } } = components.context
  const source = serverChoice(components, handOver)
  return {
    span: middleOf(charter, partition),
    openCache: async (span, capacity, signal) => await RouteCache.open(source, span, { ...options, capacity }, signal)
  }
}
