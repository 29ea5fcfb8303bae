/**
 * Goodput of a sealed stream beside node:tls between the same two processes on loopback, where the time goes, and the round trip of
 * a small message. Run: node bench/goodput.ts [seconds per measurement, 3]
 */
import '../src/node/process/v8-flags.ts'
import { type ChildProcess, fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type TLSSocket } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { create } from '@bufbuild/protobuf'
import { StringValueSchema } from '@bufbuild/protobuf/wkt'
import type { Stream } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { acceptChannel, type Channel, openChannel } from '../src/protocols/wire/channel.ts'
import { ChannelClosedError } from '../src/protocols/wire/errors.ts'
import { tensor, type Tensor } from '../src/tensor.ts'
import { identityOf, textOptions, type TextChannel } from '../test/helpers/channels.ts'
import { startTestNode } from '../test/helpers/nodes.ts'
import { median } from './support/print.ts'
import { printSections } from './support/sealing-sections.ts'
import { selfSigned } from './support/self-signed.ts'

const MiB = 2 ** 20
const MESSAGE_BYTES = 32 * MiB
const CHUNK_BYTES = MiB
const SMALL_BYTES = 8 * 1024
const WARM_UP_MESSAGES = 16
/** Messages on their way before the receiver's word that one has arrived. */
const IN_FLIGHT = 2
const ROUNDS = 5
const ROUND_TRIPS = 4000
const PROTOCOL = '/midspan/test/1'
const UNSEALED_PROTOCOL = '/midspan/test-unsealed/1'
const CIPHERS = 'TLS_AES_256_GCM_SHA384'

/** CPU milliseconds, both kinds, since the process began. */
function cpuMs (): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

function text (value: string): ReturnType<typeof create<typeof StringValueSchema>> {
  return create(StringValueSchema, { value })
}

/* ---------------------------------------------------------------- the receiving process */

async function serve (): Promise<void> {
  const node = await startTestNode({ privateKey: await identityOf(2) })
  const { server: options } = await textOptions()
  await node.handle(PROTOCOL, (stream) => {
    void acceptChannel(stream, options).then(answer).catch((error: unknown) => {
      if (!(error instanceof ChannelClosedError)) console.error(error)
    })
  })
  await node.handle(UNSEALED_PROTOCOL, (stream) => {
    stream.addEventListener('message', ({ data }) => {
      stream.send(data)
    })
  })
  const { key, cert } = selfSigned()
  const tls = createServer({ key, cert, minVersion: 'TLSv1.3', ciphers: CIPHERS }, (socket) => {
    socket.setNoDelay(true)
    acknowledgeMessages(socket)
  })
  tls.listen(0, '127.0.0.1')
  await once(tls, 'listening')
  process.on('message', () => {
    process.send?.({ cpuMs: cpuMs() })
  })
  process.send?.({ addresses: node.getMultiaddrs().map(String), tlsPort: (tls.address() as { port: number }).port })
}

/** A large message is acknowledged, a small one sent back. */
async function answer (channel: Channel<ReturnType<typeof text>, ReturnType<typeof text>>): Promise<void> {
  for (;;) {
    const { message, tensors } = await channel.receive()
    await channel.send(message, message.value === 'echo' ? tensors : [])
  }
}

/** Copies each 32 MiB into one buffer, as whoever receives tensors must, and answers with a byte. */
function acknowledgeMessages (socket: TLSSocket): void {
  let message = Buffer.allocUnsafeSlow(MESSAGE_BYTES)
  let filled = 0
  socket.on('data', (chunk: Buffer) => {
    for (let rest = chunk; rest.byteLength > 0;) {
      const part = rest.subarray(0, MESSAGE_BYTES - filled)
      message.set(part, filled)
      filled += part.byteLength
      rest = rest.subarray(part.byteLength)
      if (filled < MESSAGE_BYTES) continue
      filled = 0
      message = Buffer.allocUnsafeSlow(MESSAGE_BYTES)
      socket.write(Buffer.of(1))
    }
  })
  socket.on('error', () => {})
}

/* ---------------------------------------------------------------- the sending process */

interface Link {
  readonly send: () => Promise<void>
  readonly acknowledged: () => Promise<void>
}

function sealedLink (channel: TextChannel, tensors: readonly Tensor[]): Link {
  return {
    send: async () => {
      await channel.send(text('bulk'), tensors)
    },
    acknowledged: async () => {
      await channel.receive()
    }
  }
}

async function tlsLink (port: number, payload: Uint8Array): Promise<Link> {
  const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, minVersion: 'TLSv1.3', ciphers: CIPHERS })
  await once(socket, 'secureConnect')
  socket.setNoDelay(true)
  let acknowledged = 0
  let wake = (): void => {}
  socket.on('data', (bytes: Buffer) => {
    acknowledged += bytes.byteLength
    wake()
  })
  return {
    send: async () => {
      for (let offset = 0; offset < MESSAGE_BYTES; offset += CHUNK_BYTES) {
        if (!socket.write(payload.subarray(offset, offset + CHUNK_BYTES))) await once(socket, 'drain')
      }
    },
    acknowledged: async () => {
      while (acknowledged === 0)
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      acknowledged--
    }
  }
}

interface Goodput {
  readonly mbPerS: number
  readonly senderMsPerGb: number
  readonly receiverMsPerGb: number
}

async function measure (call: Link, child: ChildProcess, seconds: number): Promise<Goodput> {
  const startReceiver = await cpuOf(child)
  const startCpu = cpuMs()
  const start = performance.now()
  let messages = 0
  let unacknowledged = 0
  while (performance.now() - start < seconds * 1000) {
    await call.send()
    messages++
    if (++unacknowledged > IN_FLIGHT) {
      await call.acknowledged()
      unacknowledged--
    }
  }
  for (; unacknowledged > 0; unacknowledged--) await call.acknowledged()
  const elapsedMs = performance.now() - start
  const gigabytes = messages * MESSAGE_BYTES / 1e9
  return {
    mbPerS: gigabytes * 1e6 / elapsedMs,
    senderMsPerGb: (cpuMs() - startCpu) / gigabytes,
    receiverMsPerGb: (await cpuOf(child) - startReceiver) / gigabytes
  }
}

async function cpuOf (child: ChildProcess): Promise<number> {
  child.send('cpu')
  const [answered] = await once(child, 'message') as [{ cpuMs: number }]
  return answered.cpuMs
}

function report (name: string, runs: readonly Goodput[]): number {
  const mbPerS = runs.map((run) => run.mbPerS)
  console.log(
    `${name.padEnd(26)} ${median(mbPerS).toFixed(0).padStart(6)} MB/s [${Math.min(...mbPerS).toFixed(0)}-${
      Math.max(...mbPerS).toFixed(0)
    }]   ` + `CPU ms/GB: sender ${
      median(runs.map((run) => run.senderMsPerGb)).toFixed(0)
    }, receiver ${median(runs.map((run) => run.receiverMsPerGb)).toFixed(0)}`
  )
  return median(mbPerS)
}

async function roundTrips (name: string, ask: () => Promise<unknown>): Promise<void> {
  const times: number[] = []
  for (let index = 0; index < ROUND_TRIPS; index++) {
    const start = performance.now()
    await ask()
    times.push(performance.now() - start)
  }
  const sorted = times.slice(ROUND_TRIPS / 8).sort((a, b) => a - b)
  const at = (share: number): string => `${((sorted[Math.floor(sorted.length * share)] ?? NaN) * 1000).toFixed(0)} us`
  console.log(`${`8 KiB there and back, ${name}`.padEnd(34)} p50 ${at(0.5)}, p90 ${at(0.9)}, p99 ${at(0.99)}`)
}

/** A small message there and back as Midspan sends it. */
function sealedEcho (channel: TextChannel): () => Promise<void> {
  const small = [tensor('uint8', [SMALL_BYTES], new Uint8Array(randomBytes(SMALL_BYTES)))]
  return async () => {
    await channel.send(text('echo'), small)
    await channel.receive()
  }
}

/** The same bytes over the same connection, neither framed nor sealed. */
function unsealedEcho (stream: Stream): () => Promise<void> {
  const small = new Uint8Array(randomBytes(SMALL_BYTES))
  let missing = 0
  let wake = (): void => {}
  stream.addEventListener('message', ({ data }) => {
    missing -= data.byteLength
    if (missing === 0) wake()
  })
  return async () => {
    missing = SMALL_BYTES
    const back = new Promise<void>((resolve) => {
      wake = resolve
    })
    stream.send(small)
    await back
  }
}

async function main (seconds: number): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), ['serve'])
  const [{ addresses, tlsPort }] = await once(child, 'message') as [{ addresses: string[], tlsPort: number }]
  const node = await startTestNode({ privateKey: await identityOf(1), listen: false })
  try {
    const payload = new Uint8Array(randomBytes(MESSAGE_BYTES))
    const tensors = [tensor('uint8', [MESSAGE_BYTES], payload)]
    const { client: options } = await textOptions()
    const stream = await node.dialProtocol(addresses.map((address) => multiaddr(address)), PROTOCOL)
    const channel = await openChannel(stream, options)
    const calls = [{ name: 'sealed over libp2p', call: sealedLink(channel, tensors) }, {
      name: 'node:tls 1.3 AES-256-GCM',
      call: await tlsLink(tlsPort, payload)
    }]
    for (const { call } of calls)
      for (let index = 0; index < WARM_UP_MESSAGES; index++) {
        await call.send()
        await call.acknowledged()
      }
    const runs = calls.map((): Goodput[] => [])
    for (let round = 0; round < ROUNDS; round++)
      for (const [index, { call }] of calls.entries()) runs[index]?.push(await measure(call, child, seconds))
    const [sealed, tls] = calls.map(({ name }, index) => report(name, runs[index] ?? []))
    console.log(`ratio                      ${((sealed ?? NaN) / (tls ?? NaN)).toFixed(2)} (bar 0.35)`)
    await roundTrips('sealed', sealedEcho(channel))
    await roundTrips('unsealed', unsealedEcho(await node.dialProtocol(addresses.map((address) => multiaddr(address)), UNSEALED_PROTOCOL)))
    await channel.close()
    printSections(PROTOCOL, tensors, payload, SMALL_BYTES)
  } finally {
    await node.stop()
    child.kill()
  }
}

if (process.argv[2] === 'serve') await serve()
else await main(Number(process.argv[2] ?? 3))
