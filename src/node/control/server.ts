import { once } from 'node:events'
import { chmod, lstat, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { schemaOf, type OfferedOperations, type OperationName } from '../../api/operations.ts'
import { MidspanError, UsageError } from '../../errors.ts'
import { makeDirectories } from '../../model/checkpoint/atomic.ts'
import type { Logger } from '../../roles/context.ts'
import type { Home } from '../home/home.ts'
import { CONTROL_PREFIX, errorLine, needsStack, MAX_PARAMETER_BYTES } from './messages.ts'
import { runOperation } from './run-operation.ts'
import { controlDirectory, openControlAddress } from './socket-path.ts'

export interface ControlServer {
  /** Where it listens. */
  readonly path: string
  /** Offers other operations from now on. Those that run go on. */
  offer (operations: OfferedOperations): void
  /** Stops the operations that run, and the socket. Called again, it does nothing. */
  stop (): Promise<void>
}

/**
 * Offers operations to processes of the home's owner. Parameters are checked before an operation runs, and events before they leave.
 * The home must be locked: a socket that lies there is taken to be stale.
 */
export async function startControlServer (home: Home, operations: OfferedOperations, logger: Logger): Promise<ControlServer> {
  await privateDirectory(controlDirectory(home))
  const { path, release } = await openControlAddress(home)
  await rm(path, { force: true })
  const stopping = new AbortController()
  let offered = operations
  const server = createServer((request, response) => {
    answer({ operations: offered, logger, log: home.log, stopping: stopping.signal }, request, response).catch((error: unknown) => {
      logger.error({ err: error }, 'an answer to the control socket broke')
      response.destroy()
    })
  })
  server.requestTimeout = 0 // operations last as long as they last
  try {
    server.listen(path)
    await once(server, 'listening')
  } catch (error) {
    await release()
    throw error
  }
  server.on('error', (error) => { logger.error({ err: error }, 'the control socket failed') })
  await chmod(path, 0o600)
  let stopped: Promise<void> | undefined
  return {
    path,
    offer: (others) => { offered = others },
    stop: async () => { await (stopped ??= stop(server, stopping).finally(release)) }
  }
}

async function stop (server: Server, stopping: AbortController): Promise<void> {
  const closed = once(server, 'close')
  server.close()
  stopping.abort(new MidspanError('E_STOPPED', 'the daemon is stopping', { next: 'run this again when it is back' }))
  server.closeIdleConnections()
  const forced = setTimeout(() => { server.closeAllConnections() }, STOP_TIMEOUT_MS)
  await closed
  clearTimeout(forced)
}

/** How long operations have to end on their own when the daemon stops. */
const STOP_TIMEOUT_MS = 5_000

/** Makes a directory for its owner alone: where everybody may write, another user could have made it first. */
async function privateDirectory (path: string): Promise<void> {
  await makeDirectories(path, 0o700)
  const { uid, mode } = await lstat(path)
  if (uid !== process.getuid?.() || (mode & 0o077) !== 0)
    throw new UsageError(`${path} is not for this user alone`, `make it so (chmod 700 ${path}), or choose another home`)
}

interface Offer {
  readonly operations: OfferedOperations
  readonly logger: Logger
  /** The path of the log. */
  readonly log: string
  readonly stopping: AbortSignal
}

async function answer ({ operations, logger, log, stopping }: Offer, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const gone = new AbortController()
  response.on('close', () => { gone.abort(new MidspanError('E_CALLER_GONE', 'the caller hung up')) })
  response.on('error', () => { gone.abort() })
  const signal = AbortSignal.any([gone.signal, stopping])
  response.setHeader('content-type', 'application/x-ndjson')
  let name: OperationName | undefined
  try {
    name = operationName(operations, request)
    const parameters = await readParameters(request)
    for await (const event of runOperation(operations, name, parameters, signal)) await writeLine(response, event, signal)
  } catch (error) {
    if (needsStack(error) && !signal.aborted) logger.error({ operation: name, err: error }, 'an operation failed by a defect')
    if (!gone.signal.aborted) await writeLine(response, errorLine(error, log), gone.signal)
  } finally {
    response.end()
  }
}

/** Returns the operation that a request names. Throws a MidspanError where this peer does not offer it. */
function operationName (operations: OfferedOperations, { method, url = '' }: IncomingMessage): OperationName {
  const name = url.startsWith(CONTROL_PREFIX) ? url.slice(CONTROL_PREFIX.length) : ''
  if (method === 'POST' && schemaOf(name) !== undefined && Object.hasOwn(operations, name)) return name as OperationName
  throw new MidspanError('E_NO_OPERATION', `this peer does not offer ${name === '' ? `${method} ${url}` : name}`, {
    next: `ask one of the other role; this one offers ${Object.keys(operations).sort().join(', ')}`
  })
}

async function readParameters (request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = []
  let bytes = 0
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.byteLength
    if (bytes > MAX_PARAMETER_BYTES) throw new UsageError(`the parameters exceed ${MAX_PARAMETER_BYTES} bytes`)
    parts.push(part)
  }
  try {
    return bytes === 0 ? {} : JSON.parse(Buffer.concat(parts).toString())
  } catch (error) {
    throw new UsageError('the parameters are not JSON', undefined, error)
  }
}

async function writeLine (response: ServerResponse, event: object, signal: AbortSignal): Promise<void> {
  if (response.destroyed || response.write(`${JSON.stringify(event)}\n`)) return
  await once(response, 'drain', { signal })
}
