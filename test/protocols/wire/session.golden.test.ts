import type * as nodeCrypto from 'node:crypto'
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { create } from '@bufbuild/protobuf'
import { StringValueSchema } from '@bufbuild/protobuf/wkt'
import { DhkemX25519HkdfSha256 } from '@hpke/core'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { streamPair } from '@libp2p/utils'
import { afterEach, expect, it, vi } from 'vitest'
import { float32 } from '../../../src/tensor.ts'
import { channelPair, charter, identityOf } from '../../helpers/channels.ts'

/** Rewritten with `MIDSPAN_TEST_GOLDEN=write`: then every other implementation has to change, too. */
const PATH = new URL('session.golden.json', import.meta.url)

const fixed = vi.hoisted(() => ({ draws: 0 }))

// Random bytes are the only input of a session that is not given: the test fixes them.
vi.mock('node:crypto', async (original) => {
  const crypto = await original<typeof nodeCrypto>()
  return {
    ...crypto,
    randomBytes: (size: number) => Buffer.alloc(size, ++fixed.draws)
  }
})

afterEach(() => { vi.restoreAllMocks() })

function hex (bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

it('a session with fixed keys is these bytes', async () => {
  const kem = new DhkemX25519HkdfSha256()
  const ikm = (number: number): ArrayBuffer => new Uint8Array(32).fill(number).buffer
  const pairs = [await kem.deriveKeyPair(ikm(101)), await kem.deriveKeyPair(ikm(102))]
  let made = 0
  vi.spyOn(globalThis.crypto.subtle, 'generateKey').mockImplementation((async () => pairs[made++]) as never)
  const streams = await streamPair({ protocol: '/midspan/test/1' })
  const sent: { clientToServer: string, serverToClient: string } = { clientToServer: '', serverToClient: '' }
  for (const [index, side] of (['serverToClient', 'clientToServer'] as const).entries()) {
    streams[index]?.addEventListener('message', ({ data }) => { sent[side] += hex(data.subarray()) })
  }
  const { client, server } = await channelPair({}, streams)
  await client.send(create(StringValueSchema, { value: 'hello' }), [float32([2, 3], Float32Array.from([1, 2, 3, 4, 5, 6]))])
  await server.receive()
  await server.send(create(StringValueSchema, { value: 'welcome' }))
  await client.receive()
  await Promise.all([client.close(), server.receive().catch(() => server.close())])
  const golden = {
    about: 'One session of docs/wire.md: a message with a float32 tensor of shape [2, 3], an answer without tensors, and both ends.',
    protocol: '/midspan/test/1',
    charter: hex(charter),
    clientIdentity: hex(privateKeyToProtobuf(await identityOf(1))),
    serverIdentity: hex(privateKeyToProtobuf(await identityOf(2))),
    serverKemIkm: hex(new Uint8Array(ikm(101))),
    clientEphemeralIkm: hex(new Uint8Array(ikm(102))),
    nonce: '01'.repeat(32),
    sessionId: client.sessionId,
    message: 'google.protobuf.StringValue "hello", answered by "welcome"',
    ...sent,
    sha256: createHash('sha256').update(sent.clientToServer + sent.serverToClient).digest('hex')
  }
  if (process.env.MIDSPAN_TEST_GOLDEN === 'write') await writeFile(PATH, `${JSON.stringify(golden, null, 2)}\n`)
  expect(golden).toEqual(JSON.parse(await readFile(PATH, 'utf8')))
})
