import { once } from 'node:events'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import { MidspanError, UsageError } from '../../errors.ts'
import type { Charter } from '../../protocols/charter/index.ts'
import type { Logger } from '../../roles/logger.ts'
import type { Home } from '../home/home.ts'
import { authorityOf, type HttpAddress } from './address.ts'
import { httpApp } from './app.ts'
import type { Backend } from './backend.ts'
import { Places } from './places.ts'
import { loadOrCreateToken } from './token.ts'

/** A caller needs a connection for each request that it has under way; those of a flood are closed. */
export const MAX_HTTP_CONNECTIONS = 512

/** How long a caller may take to send its headers, and its whole request. */
const HEADERS_TIMEOUT_MS = 10_000
const REQUEST_TIMEOUT_MS = 60_000

/** A connection over which nothing came or went for so long is closed, so that a caller that reads nothing holds no place for ever. */
const IDLE_TIMEOUT_MS = 30 * 60_000

/** How long answers have to end on their own when the server stops. */
const STOP_TIMEOUT_MS = 5_000

/** How often connections whose answers have ended are closed while the server stops: callers keep them open for more. */
const CLOSE_INTERVAL_MS = 20

export interface HttpServerOptions {
  readonly home: Home
  readonly charter: Charter
  readonly address: HttpAddress
  /** Names that a Host header may have besides localhost and IP addresses. */
  readonly hosts: readonly string[]
  readonly backend: Backend
  readonly logger: Logger
}

export interface HttpServer {
  /** The base URL of the API, as programs take it. */
  readonly url: string
  /** Where the bearer token is. */
  readonly tokenPath: string
  /** Ends the requests that are under way, and the server. Called again, it does nothing. */
  stop (): Promise<void>
}

/**
 * Serves the OpenAI-compatible API of a client's daemon. Throws UsageError where the address cannot be used, or the token's file holds
 * something else. The caller stops the server.
 */
export async function startHttpServer ({ home, charter, address, hosts, backend, logger }: HttpServerOptions): Promise<HttpServer> {
  const token = await loadOrCreateToken(home.httpToken)
  const stopping = new AbortController()
  const app = httpApp({
    backend,
    places: new Places(textsAtOnce(charter)),
    model: {
      id: charter.name,
      object: 'model',
      created: Math.floor(Date.parse(charter.createdAt) / 1000),
      owned_by: charter.founder,
      max_model_len: charter.limits.maxSequenceTokens
    },
    token,
    hosts: new Set([address.host, ...hosts].map((host) => host.toLowerCase())),
    logger,
    log: home.log,
    stopping: stopping.signal
  })
  const server = createAdaptorServer({ fetch: app.fetch, overrideGlobalObjects: false }) as Server
  server.headersTimeout = HEADERS_TIMEOUT_MS
  server.requestTimeout = REQUEST_TIMEOUT_MS
  server.timeout = IDLE_TIMEOUT_MS
  server.maxConnections = MAX_HTTP_CONNECTIONS
  await listen(server, address)
  server.on('error', (error) => { logger.error({ err: error }, 'the HTTP server failed') })
  let stopped: Promise<void> | undefined
  return {
    url: `http://${authorityOf({ host: address.host, port: (server.address() as AddressInfo).port })}/v1`,
    tokenPath: home.httpToken,
    stop: async () => { await (stopped ??= stop(server, stopping)) }
  }
}

/** Texts that one client generates at once: its sessions, less one that training and checks of servers may need. */
function textsAtOnce ({ limits }: Charter): number {
  return Math.max(1, limits.maxSessionsPerClient - 1)
}

async function listen (server: Server, address: HttpAddress): Promise<void> {
  server.listen(address.port, address.host)
  try {
    await once(server, 'listening')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new UsageError(
      `HTTP cannot be served on ${authorityOf(address)}: ${code === 'EADDRINUSE' ? 'the port is in use' : code ?? (error as Error).message}`,
      'choose another address with --http HOST:PORT',
      error
    )
  }
}

async function stop (server: Server, stopping: AbortController): Promise<void> {
  const closed = once(server, 'close')
  server.close()
  stopping.abort(new MidspanError('E_STOPPED', 'the server is stopping', { next: 'try again when it is back' }))
  const closing = setInterval(() => { server.closeIdleConnections() }, CLOSE_INTERVAL_MS)
  const forced = setTimeout(() => { server.closeAllConnections() }, STOP_TIMEOUT_MS)
  await closed
  clearTimeout(forced)
  clearInterval(closing)
}
