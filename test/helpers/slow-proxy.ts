import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'

export interface SlowProxy {
  readonly port: number
  close (): void
}

/** The proxy sends this often: short beside any timeout, long beside the timer's own error. */
const TICK_MS = 10

/** A TCP proxy whose dialling side has an uplink of this many bytes a second, and a queue of its own as a slow modem has. */
export async function startSlowProxy (targetPort: number, uplinkBytesPerS: number): Promise<SlowProxy> {
  const sockets = new Set<Socket>()
  const timers = new Set<NodeJS.Timeout>()
  const server = createServer((near) => {
    const far = connect(targetPort, '127.0.0.1')
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.on('error', () => { near.destroy(); far.destroy() })
      socket.on('close', () => { near.destroy(); far.destroy(); clearInterval(timer) })
    }
    far.pipe(near)
    near.pause()
    const perTick = uplinkBytesPerS * TICK_MS / 1000
    let credit = 0
    let last = performance.now()
    const timer = setInterval(() => {
      const now = performance.now()
      credit = Math.min(credit + uplinkBytesPerS * (now - last) / 1000, 4 * perTick)
      last = now
      const bytes = credit < 1 ? null : near.read(Math.min(Math.floor(credit), near.readableLength)) as Buffer | null
      if (bytes === null) return
      credit -= bytes.byteLength
      far.write(bytes)
    }, TICK_MS)
    timers.add(timer)
    near.on('readable', () => {})
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as { port: number }).port,
    close () {
      server.close()
      for (const timer of timers) clearInterval(timer)
      for (const socket of sockets) socket.destroy()
    }
  }
}
