import { isIP } from 'node:net'

/** Where HTTP is served. */
export interface HttpAddress {
  /** An IP address, or a name of this machine. */
  readonly host: string
  /** 0 takes one that is free. */
  readonly port: number
}

const LOOPBACK = '127.0.0.1'

/** Parses `HOST:PORT`, `[IPV6]:PORT`, or a port alone, which is one on loopback. Returns undefined for any other text. */
export function parseHttpAddress (text: string): HttpAddress | undefined {
  const [, bracketed, plain, digits] = /^(?:\[([0-9a-fA-F:.]+)\]:|([^[\]:/\s]+):)?(\d{1,5})$/.exec(text) ?? []
  const port = Number(digits)
  if (digits === undefined || port > 65_535) return undefined
  if (bracketed !== undefined && isIP(bracketed) !== 6) return undefined
  return { host: bracketed ?? plain ?? LOOPBACK, port }
}

/** Returns the address as the authority of a URL. */
export function authorityOf ({ host, port }: HttpAddress): string {
  return `${isIP(host) === 6 ? `[${host}]` : host}:${port}`
}

/** Returns whether only this machine reaches an address. */
export function isLoopback (host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))
}

/**
 * Returns whether a Host header names this server: by an IP address, as localhost, or by one of `names`. A page whose own name was made to
 * lead to this machine (DNS rebinding) has another name there.
 */
export function isOwnHost (header: string | undefined, names: ReadonlySet<string>): boolean {
  const [, bracketed, plain] = /^(?:\[([0-9a-fA-F:.]+)\]|([^[\]:/@\s]+))(?::\d{1,5})?$/.exec(header ?? '') ?? []
  if (bracketed !== undefined) return isIP(bracketed) === 6
  if (plain === undefined) return false
  const name = plain.toLowerCase().replace(/\.$/, '')
  return isIP(name) === 4 || name === 'localhost' || names.has(name)
}
