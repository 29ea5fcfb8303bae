import { streamPair } from '@libp2p/utils'
import { expect, it, vi } from 'vitest'
import { MIN_PIECE_BYTES, PAUSE_AT_BYTES } from '../../../src/protocols/wire/constants.ts'
import { StreamSource } from '../../../src/protocols/wire/source.ts'

it('pauses a stream whose bytes come one by one long before their number is large', async () => {
  const [, inbound] = await streamPair()
  const source = new StreamSource(inbound, Infinity)
  const pieces = PAUSE_AT_BYTES / MIN_PIECE_BYTES
  for (let piece = 0; piece < pieces; piece++) inbound.push(Uint8Array.of(piece))
  await vi.waitFor(() => { expect(inbound.readStatus).toBe('paused') })
  for (let piece = 0; piece < pieces; piece++) expect(await source.read()).toEqual(Uint8Array.of(piece))
  expect(inbound.readStatus).toBe('readable')
})
