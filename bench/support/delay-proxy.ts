import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { median } from './print.ts'

/** A TCP proxy before a port of this machine, through which every byte takes as long. */
export interface DelayProxy {
  readonly port: number
  /** Milliseconds that bytes take in each direction, from now on. */
  oneWayMs: number
  close (): void
}

/** Starts a proxy without delay. The caller closes it. */
export async function startDelayProxy (targetPort: number): Promise<DelayProxy> {
  const sockets = new Set<Socket>()
  const carry = (from: Socket, to: Socket): void => {
    from.on('data', (bytes: Buffer) => {
      if (proxy.oneWayMs === 0) to.write(bytes)
      else setTimeout(() => { if (!to.destroyed) to.write(bytes) }, proxy.oneWayMs)
    })
    from.on('error', () => { to.destroy() })
    from.on('close', () => { to.destroy() })
  }
  const server = createServer({ noDelay: true }, (near) => {
    const far = connect({ port: targetPort, host: '127.0.0.1', noDelay: true })
    for (const socket of [near, far]) sockets.add(socket)
    carry(near, far)
    carry(far, near)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy: DelayProxy = {
    port: (server.address() as { port: number }).port,
    oneWayMs: 0,
    close () {
      server.close()
      for (const socket of sockets) socket.destroy()
    }
  }
  return proxy
}

/** Measures what one byte takes through a proxy, one way, on average of both: its delay, and what timers and sockets add to it. */
export async function measureOneWayMs (oneWayMs: number, times = 15): Promise<number> {
  const echo = createServer({ noDelay: true }, (socket) => { socket.pipe(socket) }).listen(0, '127.0.0.1')
  await once(echo, 'listening')
  const proxy = await startDelayProxy((echo.address() as { port: number }).port)
  proxy.oneWayMs = oneWayMs
  const socket = connect({ port: proxy.port, host: '127.0.0.1', noDelay: true })
  try {
    const trips: number[] = []
    for (let i = 0; i < times; i++) {
      const startedAtMs = performance.now()
      socket.write('.')
      await once(socket, 'data')
      trips.push(performance.now() - startedAtMs)
    }
    return median(trips) / 2
  } finally {
    socket.destroy()
    proxy.close()
    echo.close()
  }
}

/** Below the ports that systems give to connections: one of those could be taken before the caller listens on it. */
const PORTS = { first: 20_000, count: 10_000 }

/** Returns a port of this machine on which nobody listens. */
export async function freePort (): Promise<number> {
  for (;;) {
    const port = PORTS.first + randomInt(PORTS.count)
    const server = createServer().listen(port, '127.0.0.1')
    const listens = await once(server, 'listening').then(() => true, () => false)
    if (!listens) continue
    server.close()
    await once(server, 'close')
    return port
  }
}
