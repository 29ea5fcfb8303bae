/**
 * Does the worst that strangers can do to a server, from many local addresses: `node test/soak/strangers-attack.ts ADDRESS SECONDS
 * CONNECTIONS SOURCES`. Started by strangers.ts in a process of its own.
 */
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { multiaddr } from '@multiformats/multiaddr'
import { silentSocket, startAttacker, yamuxFrames, yamuxHeader, type Attacker, type RawConnection } from '../helpers/attacker.ts'

const [address = '', seconds = '60', connections = '500', sources = '20'] = process.argv.slice(2)
const target = multiaddr(address)
const port = Number(target.getComponents().find(({ name }) => name === 'tcp')?.value)
const endMs = Date.now() + Number(seconds) * 1000

/** What a connection does until it is closed: one entry is a burst of frames, sent every few milliseconds. */
const floods: Readonly<Record<string, (at: number) => Uint8Array>> = {
  pings: (at) => yamuxFrames(200, (index) => yamuxHeader(2, 1, 0, at * 200 + index)),
  resets: (at) => yamuxFrames(200, (index) => yamuxHeader(1, index % 2 === 0 ? 1 : 8, 1001 + 2 * (at * 100 + (index >> 1)), 0)),
  halfOpen: (at) => yamuxFrames(200, (index) => yamuxHeader(1, 1, 1001 + 2 * (at * 200 + index), 0))
}

async function flood ({ connection, secured }: RawConnection, kind: string): Promise<void> {
  secured.pause()
  for (let at = 0; connection.status === 'open' && Date.now() < endMs; at++) {
    try {
      secured.send(floods[kind]?.(at) ?? new Uint8Array(0))
    } catch {
      return
    }
    await delay(20)
  }
}

async function idle ({ connection }: RawConnection): Promise<void> {
  while (connection.status === 'open' && Date.now() < endMs) await delay(100)
}

async function keepBusy (attacker: Attacker, source: string, slot: number): Promise<void> {
  const kinds = ['silent', 'idle', ...Object.keys(floods)]
  for (let turn = 0; Date.now() < endMs; turn++) {
    const kind = kinds[(slot + turn) % kinds.length] as string
    try {
      if (kind === 'silent') {
        const socket = silentSocket(port, source)
        await Promise.race([once(socket, 'close'), delay(5_000)])
        socket.destroy()
      } else {
        const raw = await attacker.connect([target])
        await (kind === 'idle' ? idle(raw) : flood(raw, kind))
        raw.connection.abort(new Error('next'))
      }
    } catch {
      // The server let go of this connection.
    }
    await delay(100)
  }
}

const attackers = await Promise.all(Array.from({ length: Number(sources) }, async (_, index) => {
  const source = `127.0.0.${10 + index}`
  return { source, attacker: await startAttacker(source) }
}))
await Promise.all(Array.from({ length: Number(connections) }, async (_, slot) => {
  const { source, attacker } = attackers[slot % attackers.length] as typeof attackers[number]
  await keepBusy(attacker, source, Math.floor(slot / attackers.length))
}))
process.exit(0)
