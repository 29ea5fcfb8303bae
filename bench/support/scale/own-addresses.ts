import net from 'node:net'

type Connect = (this: unknown, options: net.NetConnectOpts, ...others: unknown[]) => net.Socket

let dialled = 0

/**
 * Has each connection that this process dials come from another loopback address, as if its peers were machines of their own: a server
 * bounds what strangers at one address may do. On Linux the whole of 127.0.0.0/8 is loopback; elsewhere nothing changes.
 */
export function dialFromOwnAddresses (): void {
  if (process.platform !== 'linux') return
  const module = net as unknown as { connect: Connect }
  const { connect } = module
  module.connect = function (options, ...others) {
    const host = (options as Partial<net.TcpNetConnectOpts>).host ?? ''
    const place = dialled++
    const localAddress = `127.${1 + process.pid % 250}.${(place >> 8) % 256}.${1 + place % 254}`
    return connect.call(this, host.startsWith('127.') ? { localAddress, ...options } : options, ...others)
  }
}
