import { createCipheriv } from 'node:crypto'
import { expect, it } from 'vitest'
import { keystreamBytes } from '../../../src/model/runtime/keystream.ts'

const keys = [1, 2].map((byte) => new Uint8Array(32).fill(byte))

it('makes the same keystreams in few large calls to the cipher as in many small ones', () => {
  const keystreams = [{ key: keys[0]!, elements: 21 }, { key: keys[1]!, elements: 5 }]
  const expected = Buffer.concat(keystreams.map(({ key, elements }) =>
    createCipheriv('aes-256-ctr', key, new Uint8Array(16)).update(new Uint8Array(elements * 4))))
  // Calls that end within a block of the cipher, at its end, and beyond the keystream's.
  for (const callBytes of [1, 12, 16, 32, 84, 2 ** 28]) {
    expect(Buffer.from(keystreamBytes(keystreams, callBytes)).equals(expected), `${callBytes}`).toBe(true)
    expect(Buffer.from(keystreamBytes(keystreams.slice(0, 1), callBytes)).equals(expected.subarray(0, 84)), `${callBytes}`).toBe(true)
  }
})

it('begins a keystream at any element', () => {
  const whole = Buffer.from(keystreamBytes([{ key: keys[0]!, elements: 40 }]))
  for (const from of [0, 1, 3, 4, 7, 16, 33])
    expect(Buffer.from(keystreamBytes([{ key: keys[0]!, from, elements: 6 }])).equals(whole.subarray(4 * from, 4 * (from + 6))), `${from}`).toBe(true)
})
