import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from 'node:crypto'
import { encodeBody } from '../../src/protocols/wire/body.ts'
import { FrameOpener } from '../../src/protocols/wire/opener.ts'
import { FrameSealer } from '../../src/protocols/wire/sealer.ts'
import { tensor, type Tensor } from '../../src/tensor.ts'
import { median } from './print.ts'

/** What a Noise message holds beside its tag. */
const NOISE_BYTES = 65_519
/** About what a socket gives at a time. */
const CHUNK_BYTES = 65_536

/**
 * Prints the milliseconds a GB of each section of a sealed stream on its own, in this process and on one core, and those of a small
 * message.
 */
export function printSections (protocol: string, tensors: readonly Tensor[], payload: Uint8Array, smallBytes: number): void {
  const bytes = payload.byteLength
  const noiseKey = createSecretKey(randomBytes(32))
  const nonce = new Uint8Array(12)
  const secret = randomBytes(32)
  const binding = { protocol, sessionId: randomBytes(16), direction: 'c2s' } as const
  const limits = { maxMessageBytes: 1024, maxTensorBytes: bytes, maxTensors: 1 }
  const sealer = new FrameSealer(secret, binding)
  const opener = new FrameOpener(secret, binding, bytes + 4096)
  const parts = encodeBody({ message: new Uint8Array(8), tensors }, limits)
  const seal = new Array<number>()
  const open = new Array<number>()
  const small = new Array<number>()
  const copy = new Array<number>()
  const noise = { encrypt: new Array<number>(), decrypt: new Array<number>() }
  for (let round = 0; round < 12; round++) {
    const records: Uint8Array[][] = []
    timed(seal, () => {
      for (const record of sealer.seal('message', parts)) records.push([...record])
    })
    const [head, ...rest] = records[0] as [Uint8Array, ...Uint8Array[]]
    const { header } = opener.parse(head.subarray(1))
    timed(open, () => {
      opener.begin(header, head.subarray(1))
      for (const piece of rest) opener.add(piece)
      for (const record of records.slice(1))
        for (const piece of record)
          for (let at = 0; at < piece.byteLength; at += CHUNK_BYTES)
            opener.add(piece.subarray(at, at + CHUNK_BYTES))
    })
    timed(copy, () => {
      Buffer.allocUnsafeSlow(bytes).set(payload)
    })
    const chunks: Buffer[] = []
    timed(noise.encrypt, () => {
      for (let at = 0; at < bytes; at += NOISE_BYTES) {
        const cipher = createCipheriv('chacha20-poly1305', noiseKey, nonce, { authTagLength: 16 })
        chunks.push(cipher.update(payload.subarray(at, at + NOISE_BYTES)), cipher.final())
        cipher.getAuthTag()
      }
    })
    timed(noise.decrypt, () => {
      for (const chunk of chunks) createDecipheriv('chacha20-poly1305', noiseKey, nonce, { authTagLength: 16 }).update(chunk)
    })
  }
  const smallParts = encodeBody(
    { message: new Uint8Array(8), tensors: [tensor('uint8', [smallBytes], new Uint8Array(smallBytes))] },
    limits
  )
  for (let round = 0; round < 2000; round++) {
    timed(small, () => {
      const [record] = [...sealer.seal('message', smallParts)]
      const [head, ...rest] = [...record ?? []] as [Uint8Array, ...Uint8Array[]]
      opener.begin(opener.parse(head.subarray(1)).header, head.subarray(1))
      for (const piece of rest) opener.add(piece)
    })
  }
  const perGb = (times: readonly number[]): string => `${(median(times) / (bytes / 1e9)).toFixed(0)} ms/GB`
  console.log(
    `sections, one core         seal ${perGb(seal)}, open ${perGb(open)}, copy ${perGb(copy)}, noise cipher ${perGb(noise.encrypt)} / ${
      perGb(noise.decrypt)
    }`
  )
  console.log(`8 KiB seal and open        ${(median(small) * 1000).toFixed(0)} us`)
}

function timed (times: number[], run: () => void): void {
  const start = performance.now()
  run()
  times.push(performance.now() - start)
}
