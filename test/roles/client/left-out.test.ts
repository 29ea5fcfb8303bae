import { generateKeyPair } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { beforeEach, describe, expect, it } from 'vitest'
import { LeftOutServers } from '../../../src/roles/client/left-out.ts'
import type { KnownServer } from '../../../src/roles/context.ts'
import { chainName } from '../../../src/roles/middle/chain-name.ts'

const peerId = peerIdFromPrivateKey(await generateKeyPair('Ed25519'))
const id = peerId.toString()

describe('a server that failed', () => {
  let nowMs = 0
  let connected = true
  let isKnown = true
  let listener = (): void => {}
  let leftOut: LeftOutServers
  const become = (now: boolean): void => {
    connected = now
    listener()
  }
  beforeEach(() => {
    nowMs = 0
    connected = true
    isKnown = true
    leftOut = new LeftOutServers({
      servers: (): KnownServer[] =>
        isKnown ? [{ peerId, connected, isCoordinator: false, span: undefined, load: undefined, roundTripMs: undefined }] : [],
      onServersChanged (added) {
        listener = added
        return () => {}
      }
    }, () => nowMs)
  })

  it('is left out for a while, and longer each time', () => {
    expect(leftOut.has(id)).toBe(false)
    for (const seconds of [30, 60, 120]) {
      leftOut.add(id)
      nowMs += 1000 * seconds - 1
      expect(leftOut.has(id)).toBe(true)
      nowMs += 1
      expect(leftOut.has(id)).toBe(false)
    }
  })

  it('is left out for ten minutes at most, and trusted as at first after ten good ones', () => {
    for (let failure = 0; failure < 40; failure++) leftOut.add(id)
    nowMs += 600_000
    expect(leftOut.has(id)).toBe(false)
    nowMs += 600_001
    leftOut.add(id)
    nowMs += 30_000
    expect(leftOut.has(id)).toBe(false)
  })

  it('is not left out longer for tries while it is not connected', () => {
    leftOut.add(id)
    become(false)
    for (let attempt = 0; attempt < 10; attempt++) leftOut.add(id)
    become(true)
    expect(leftOut.has(id)).toBe(false)
    leftOut.add(id)
    nowMs += 60_000
    expect(leftOut.has(id)).toBe(false)
  })

  it('is let in again at once when it was gone and is back', () => {
    leftOut.add(id)
    become(true)
    expect(leftOut.has(id)).toBe(true)
    become(false)
    expect(leftOut.has(id)).toBe(true)
    become(true)
    expect(leftOut.has(id)).toBe(false)
  })

  it('is let in again when it left the directory and is back', () => {
    leftOut.add(id)
    isKnown = false
    become(true)
    isKnown = true
    become(true)
    expect(leftOut.has(id)).toBe(false)
  })

  it('is known as a pair with another, too: longer left out each time, and let in when the one that was gone is back', () => {
    const pair = chainName([id, id])
    for (const seconds of [30, 60]) {
      leftOut.add(pair)
      expect(leftOut.has(id)).toBe(false)
      nowMs += 1000 * seconds - 1
      expect(leftOut.has(pair)).toBe(true)
      nowMs += 1
      expect(leftOut.has(pair)).toBe(false)
    }
    leftOut.add(pair)
    become(false)
    expect(leftOut.has(pair)).toBe(true)
    become(true)
    expect(leftOut.has(pair)).toBe(false)
  })

  it('is let in when it is back, also where it was gone before its failure was noticed', () => {
    become(false)
    leftOut.add(id)
    become(true)
    expect(leftOut.has(id)).toBe(false)
  })
})
