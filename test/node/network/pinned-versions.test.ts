import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'

/** The version of each package whose inner workings Midspan relies on, and what to check before a version here is raised. */
const PINNED = [
  {
    name: '@chainsafe/libp2p-noise',
    version: '17.0.0',
    check: `Read src/utils.ts of the package: the secured connection has to send through send(), to buffer in writeBufferLength, and to keep its
decoder in "decoder" with a replaceable "lengthDecoder" (src/node/network/encryption.ts). Run bench/goodput.ts before and after.`
  },
  {
    name: '@chainsafe/libp2p-yamux',
    version: '8.0.1',
    check: `Read src/muxer.ts and src/encode.ts of the package: each frame has to leave by one send() of the connection, a window update has to
begin with 0 1 0 0 (src/node/network/encryption.ts), a stream that the peer opens has to pass through onRemoteStream(), and every ping has to be
answered (src/node/network/connection-guard.ts and liveness.ts). See whether an item of docs/upstream.md was resolved.`
  },
  {
    name: '@libp2p/tcp',
    version: '11.0.28',
    check: `Read src/listener.ts and src/socket-to-conn.ts of the package: a listener has to take sockets by one "connection" listener of its "server",
which may be called later than the socket came, and has to read what the socket holds by then (src/node/network/guarded-tcp.ts).`
  },
  {
    name: '@libp2p/utils',
    version: '7.4.1',
    check: `Read src/abstract-message-stream.ts of the package: send() has to return false while the transport is full, "drain" has to be dispatched
when it takes more, and abort() has to end a stream that is closing (src/protocols/wire/sink.ts and control.ts, src/node/network).`
  },
  {
    name: 'libp2p',
    version: '3.3.11',
    check: `Read src/upgrader.ts and src/connection-manager/index.ts of the package: a Connection has to keep the remote address of what it runs on
(src/node/network/guarded-tcp.ts).`
  }
] as const

async function json (path: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(new URL(`../../../${path}`, import.meta.url), 'utf8')) as Record<string, unknown>
}

describe('a package whose inner workings Midspan relies on', () => {
  it.each(PINNED)('$name is installed in the version that was read', async ({ name, version, check }) => {
    expect((await json(`node_modules/${name}/package.json`)).version, check).toBe(version)
  })

  it.each(PINNED)('$name is pinned exactly for those who install Midspan', async ({ name, version, check }) => {
    expect((await json('package.json')).dependencies, check).toMatchObject({ [name]: version })
  })

  it.each(PINNED)('$name is installed once', async ({ name, check }) => {
    const { packages } = await json('package-lock.json') as { packages: Record<string, { version: string }> }
    const copies = Object.keys(packages).filter((path) => path.endsWith(`node_modules/${name}`))
    expect(copies, check).toEqual([`node_modules/${name}`])
  })
})
