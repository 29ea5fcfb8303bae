import type { Charter, Partition } from '../../protocols/charter/schema.ts'
import type { Span } from '../../span.ts'
import { RemoteStage, type StageSessions } from '../middle/remote-stage.ts'
import { Route, type RouteOptions } from '../middle/route.ts'

export interface ServerRouteSettings {
  readonly charter: Charter
  readonly partition: Partition
}

/** Returns the blocks between a client's own. */
export function middleOf ({ model: { blocks } }: Charter, { inputBlocks, outputBlocks }: Partition): Span {
  return { first: inputBlocks, end: blocks - outputBlocks }
}

/** Returns a route through the middle: one server computes all of it. */
export function routeOf (sessions: StageSessions, { charter, partition }: ServerRouteSettings, options: RouteOptions = {}): Route {
  const { wire, model: { hidden } } = charter
  return new Route([new RemoteStage(sessions, { span: middleOf(charter, partition), format: { wire, hidden } })], options)
}
