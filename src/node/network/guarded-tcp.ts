import type { Server, Socket } from 'node:net'
import type { Listener, MultiaddrConnection, Transport } from '@libp2p/interface'
import { tcp, type TCPComponents } from '@libp2p/tcp'
import { ipPortToMultiaddr } from '@libp2p/utils'
import type { Multiaddr } from '@multiformats/multiaddr'
import { addressKey } from './address-key.ts'
import type { InboundLimits } from './inbound-limits.ts'

/** How long a peer may take until its first byte came and its turn to shake hands: both ends give up a dial after it. */
const TURN_TIMEOUT_MS = 5_000

/** libp2p's listener, of which the types show less than there is. */
type TcpListener = Listener & { readonly server: Server }

/** Returns the name of an inbound connection's place: its remote address, which no other connection has while it is open. */
export function placeOf ({ remoteAddr }: Pick<MultiaddrConnection, 'remoteAddr'>): string {
  return remoteAddr.toString().split('/p2p/')[0] as string
}

/**
 * Wraps libp2p's TCP so that libp2p learns of a socket when its peer began to talk and it is its turn to shake
 * hands. A socket that is refused, or says nothing, costs what it costs to accept it. Calls `gone` when one is gone that libp2p knew.
 */
export function guardedTcp (inbound: InboundLimits, gone: () => void): (components: TCPComponents) => Transport {
  const create = tcp()
  return (components) => {
    const transport = create(components)
    const createListener = transport.createListener.bind(transport)
    transport.createListener = (options) => {
      const listener = createListener(options) as TcpListener
      const [accept] = listener.server.listeners('connection') as Array<(socket: Socket) => void>
      if (accept === undefined) throw new Error('the listener of @libp2p/tcp takes its connections in another way than it did')
      const waiting = new Set<Socket>()
      listener.server.removeAllListeners('connection')
      listener.server.on('connection', (socket) => {
        waiting.add(socket)
        socket.once('close', () => { waiting.delete(socket) })
        meet(socket, inbound, () => {
          waiting.delete(socket)
          socket.once('close', gone)
          accept(socket)
        })
      })
      const close = listener.close.bind(listener)
      listener.close = async () => {
        const closed = close()
        for (const socket of waiting) socket.destroy()
        await closed
      }
      return listener
    }
    return transport
  }
}

/** Has a socket accepted when its peer began to talk and may shake hands, and closes it where it may not stay. */
function meet (socket: Socket, inbound: InboundLimits, accept: () => void): void {
  const letGo = (): void => { socket.resetAndDestroy() }
  socket.on('error', letGo)
  const remoteAddr = addressOf(socket)
  if (remoteAddr === undefined) {
    socket.destroy()
    return
  }
  const place = placeOf({ remoteAddr })
  if (!inbound.arrive(place, addressKey(remoteAddr), letGo)) {
    letGo()
    return
  }
  const timer = setTimeout(letGo, TURN_TIMEOUT_MS)
  socket.once('close', () => {
    clearTimeout(timer)
    inbound.leave(place)
  })
  // What the peer sent stays in the socket, for libp2p to read.
  socket.once('readable', () => {
    if (socket.readableLength === 0) { // its peer ended it
      letGo()
      return
    }
    inbound.awaitTurn(place, () => {
      clearTimeout(timer)
      socket.off('error', letGo)
      accept()
    })
  })
}

/** Returns a socket's remote address, or undefined where its peer is gone already, or has one that libp2p cannot write. */
function addressOf ({ remoteAddress, remotePort }: Socket): Multiaddr | undefined {
  if (remoteAddress === undefined || remotePort === undefined) return undefined
  try {
    return ipPortToMultiaddr(remoteAddress, remotePort)
  } catch {
    return undefined // of one network alone (fe80::1%eth0)
  }
}
