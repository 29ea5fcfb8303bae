import { setTimeout as delay } from 'node:timers/promises'
import type { MessageStream, MultiaddrConnection, Upgrader } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { multiaddrConnectionPair } from '@libp2p/utils'
import { Uint8ArrayList } from 'uint8arraylist'
import { beforeEach, expect, test, vi } from 'vitest'
import { connectionEncrypter } from '../../../src/node/network/encryption.ts'
import { identityOf } from '../../helpers/channels.ts'

/** What a muxer sends beside messages: 256 bytes of window given back. */
const HEADER = Uint8Array.of(0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 1, 0)
const MESSAGE = new Uint8Array(3000).fill(2)

let raw: MultiaddrConnection
let sender: MessageStream
let receiver: MessageStream
let received: number[]
let arrived: number

beforeEach(async () => {
  const [outbound, inbound] = multiaddrConnectionPair()
  const [secured, accepted] = await Promise.all([secure(1, outbound, 'secureOutbound'), secure(2, inbound, 'secureInbound')])
  raw = outbound
  sender = secured
  receiver = accepted
  received = []
  arrived = 0
  secured.addEventListener('message', ({ data }) => { arrived += data.byteLength })
  accepted.addEventListener('message', ({ data }) => { received.push(...data.subarray()) })
})

async function secure (number: number, connection: MultiaddrConnection, side: 'secureInbound' | 'secureOutbound'): Promise<MessageStream> {
  const privateKey = await identityOf(number)
  const upgrader = { getStreamMuxers: () => new Map() } as unknown as Upgrader
  const encrypter = connectionEncrypter()({
    privateKey,
    peerId: peerIdFromPrivateKey(privateKey),
    logger: { forComponent: () => connection.log },
    upgrader
  })
  return (await encrypter[side](connection, { skipStreamMuxerNegotiation: true })).connection
}

/** Longer than a header waits for company. */
const WAIT_MS = 100

/** How often the bytes of these sends were written to the transport. */
async function writes (send: () => void): Promise<number> {
  const written = vi.spyOn(raw as unknown as { sendData: (data: Iterable<Uint8Array>) => unknown }, 'sendData')
  send()
  await delay(WAIT_MS)
  return written.mock.calls.reduce((sum, [data]) => sum + [...data].length, 0)
}

test('a message of several pieces is one write', async () => {
  expect(await writes(() => { sender.send(new Uint8ArrayList(HEADER, MESSAGE, HEADER)) })).toBe(1)
  await vi.waitFor(() => { expect(received).toEqual([...HEADER, ...MESSAGE, ...HEADER]) })
})

test('a muxer\'s header leaves with the message that follows it, in order', async () => {
  expect(await writes(() => {
    sender.send(HEADER)
    sender.send(MESSAGE)
  })).toBe(1)
  await vi.waitFor(() => { expect(received).toEqual([...HEADER, ...MESSAGE]) })
})

test('headers that nothing follows leave together, soon', async () => {
  expect(await writes(() => {
    sender.send(HEADER)
    sender.send(HEADER)
  })).toBe(1)
  await vi.waitFor(() => { expect(received).toEqual([...HEADER, ...HEADER]) })
})

test('what is kept leaves before the connection closes', async () => {
  sender.send(HEADER)
  await sender.close()
  await vi.waitFor(() => { expect(received).toEqual([...HEADER]) })
})

test('what is kept when the connection is aborted is forgotten', async () => {
  sender.send(HEADER)
  sender.abort(new Error('over'))
  await delay(WAIT_MS)
  expect(received).toEqual([])
})

test('nothing is kept while much comes in', async () => {
  receiver.send(new Uint8Array(200_000))
  await vi.waitFor(() => { expect(arrived).toBe(200_000) })
  const written = vi.spyOn(raw as unknown as { sendData: () => unknown }, 'sendData')
  sender.send(HEADER)
  expect(written).toHaveBeenCalled()
})

test.each([['a ping', [0, 2, 0, 1]], ['a header that ends a stream', [0, 1, 0, 4]], ['one that ends it after data', [0, 0, 0, 4]]])(
  '%s does not wait',
  (_, start) => {
    const written = vi.spyOn(raw as unknown as { sendData: () => unknown }, 'sendData')
    sender.send(Uint8Array.of(...start, ...new Uint8Array(8)))
    expect(written).toHaveBeenCalled()
  }
)
