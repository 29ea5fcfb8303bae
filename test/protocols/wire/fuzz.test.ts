import { randomBytes } from 'node:crypto'
import { create, toBinary } from '@bufbuild/protobuf'
import { StringValueSchema } from '@bufbuild/protobuf/wkt'
import { streamPair } from '@libp2p/utils'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MidspanError } from '../../../src/errors.ts'
import { decodeBody, encodeBody } from '../../../src/protocols/wire/body.ts'
import { acceptChannel } from '../../../src/protocols/wire/channel.ts'
import { ControlStream } from '../../../src/protocols/wire/control.ts'
import { decodeLength, encodeHead, encodeLength } from '../../../src/protocols/wire/framing.ts'
import { FrameOpener } from '../../../src/protocols/wire/opener.ts'
import { FrameSealer } from '../../../src/protocols/wire/sealer.ts'
import { BodyHeaderSchema } from '../../../src/protocols/wire/wire_pb.ts'
import { type DType, bytesPerElement, elementCount, fromBytes } from '../../../src/tensor.ts'
import { textOptions } from '../../helpers/channels.ts'

const MiB = 2 ** 20
const limits = { maxMessageBytes: 1000, maxTensorBytes: 10_000, maxTensors: 4 }
const binding = { protocol: '/midspan/test/1', sessionId: new Uint8Array(16).fill(5), direction: 'c2s' } as const

/** Runs what reads a peer's bytes: it may refuse them only with an error of Midspan's. Returns the code, if any. */
function refusal (read: () => unknown): string | undefined {
  try {
    read()
    return undefined
  } catch (error) {
    expect(error).toBeInstanceOf(MidspanError)
    return (error as MidspanError).code
  }
}

/** A frame's bytes on the stream. */
function sealedFrame (sealer: FrameSealer, parts: Uint8Array[]): Buffer {
  return Buffer.concat([...sealer.seal('message', parts)].flatMap((record) => [...record]))
}

function openFrame (opener: FrameOpener, frame: Uint8Array): Uint8Array | undefined {
  const length = decodeLength(frame)
  if (length === undefined) return undefined
  const headerBytes = frame.subarray(length.bytes, length.bytes + length.value)
  const { header } = opener.parse(headerBytes)
  opener.begin(header, headerBytes)
  return opener.add(frame.subarray(length.bytes + length.value))?.body
}

const tensorArbitrary = fc.record({
  dtype: fc.constantFrom<DType[]>('float32', 'float16', 'int8', 'uint8', 'int32', 'uint32', 'int64', 'bool'),
  shape: fc.array(fc.nat(5), { maxLength: 3 })
}).map(({ dtype, shape }) => fromBytes(dtype, shape, new Uint8Array(randomBytes(elementCount(shape) * bytesPerElement[dtype]))))

describe('bytes of a peer', () => {
  it('come back as the message and tensors that they were', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), fc.array(tensorArbitrary, { maxLength: 4 }), (message, tensors) => {
      const body = Buffer.concat(encodeBody({ message, tensors }, limits))
      const decoded = decodeBody(Uint8Array.from(body), limits)
      expect(Buffer.compare(decoded.message, message)).toBe(0)
      expect(decoded.tensors).toEqual(tensors)
    }))
  })

  it('are refused with a typed error where they are no body', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => { refusal(() => decodeBody(bytes, limits)) }), { numRuns: 1000 })
  })

  it('are refused where a body was changed or cut, unless it still is one', () => {
    const tensors = [fromBytes('float32', [3, 4], new Uint8Array(48)), fromBytes('int8', [5], new Uint8Array(5))]
    const body = Uint8Array.from(Buffer.concat(encodeBody({ message: new Uint8Array(20), tensors }, limits)))
    fc.assert(fc.property(fc.nat(body.length - 1), fc.nat(255), fc.boolean(), (at, value, cut) => {
      const changed = Uint8Array.from(body)
      changed[at] = value
      const code = refusal(() => decodeBody(cut ? changed.subarray(0, at) : changed, limits))
      if (cut) expect(code).toBeDefined()
    }), { numRuns: 1000 })
  })

  it('that claim absurd shapes are refused before memory is taken', () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 2 ** 32 - 1 }), { minLength: 1, maxLength: 40 }), (shape) => {
      const header = toBinary(BodyHeaderSchema, create(BodyHeaderSchema, { tensors: [{ dtype: 0, shape }] }))
      const code = refusal(() => decodeBody(Uint8Array.from([...encodeLength(header.length), ...header]), limits))
      if (shape.length > 8 || shape.every((size) => size > 0)) expect(code).toBeDefined()
    }))
  })

  it('that describe too many tensors are refused before any is read', () => {
    const descriptions = Buffer.concat([Buffer.from([0x12, 0, 0x12, 0, 0x12, 0, 0x12, 0, 0x12, 0]), Buffer.from([0x12, 1, 0xff])])
    expect(refusal(() => decodeBody(Uint8Array.from([...encodeLength(descriptions.length), ...descriptions]), limits))).toBe(
      'E_FRAME_TOO_LARGE'
    )
  })

  it('that say goodbye, or why they give up, at length are refused before memory is taken', () => {
    const secret = randomBytes(32)
    for (const kind of ['end', 'failure'] as const) {
      const opener = new FrameOpener(secret, binding, 10 * MiB)
      const frame = Buffer.concat([...new FrameSealer(secret, binding).seal(kind, [new Uint8Array(MiB)])].flatMap((record) => [...record]))
      expect(refusal(() => openFrame(opener, frame))).toBe('E_FRAME_TOO_LARGE')
    }
  })

  it('are refused where any bit of a sealed frame was changed', () => {
    const secret = randomBytes(32)
    const frame = sealedFrame(new FrameSealer(secret, binding), [new Uint8Array(100)])
    fc.assert(fc.property(fc.nat(frame.length * 8 - 1), (bit) => {
      const changed = Buffer.from(frame)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      let body: Uint8Array | undefined
      refusal(() => { body = openFrame(new FrameOpener(secret, binding, 1000), changed) })
      expect(body).toBeUndefined()
    }), { numRuns: 1000 })
  })

  it('open in whatever pieces a frame arrives', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 400_000 }), { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 0, max: 2 * MiB + 10 }),
        (cuts, size) => {
          const secret = randomBytes(32)
          const text = new Uint8Array(size).fill(9)
          const frame = sealedFrame(new FrameSealer(secret, binding), [text.subarray(0, size >> 1), text.subarray(size >> 1)])
          const opener = new FrameOpener(secret, binding, 3 * MiB)
          const head = decodeLength(frame)
          const end = (head?.bytes ?? 0) + (head?.value ?? 0)
          opener.begin(opener.parse(frame.subarray(head?.bytes, end)).header, frame.subarray(head?.bytes, end))
          let opened
          for (let at = end, index = 0; at < frame.length; index++) {
            const step = cuts[index % cuts.length] ?? 1
            opened = opener.add(frame.subarray(at, at + step))
            at += step
          }
          expect(Buffer.compare(opened?.body ?? Buffer.of(0), text)).toBe(0)
        }
      ),
      { numRuns: 15 }
    )
  })

  it('end a handshake with a typed error', async () => {
    const { server } = await textOptions({ handshakeTimeoutMs: 500 })
    await fc.assert(fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 200 }), async (bytes) => {
      const [attacker, inbound] = await streamPair()
      const accepted = acceptChannel(inbound, server)
      attacker.send(bytes)
      void attacker.close()
      await expect(accepted).rejects.toBeInstanceOf(MidspanError)
    }), { numRuns: 40 })
  })

  it('end a control stream with a typed error, whatever lengths they claim', async () => {
    const options = { outgoing: StringValueSchema, incoming: StringValueSchema, maxPayloadBytes: 1000, timeoutMs: 500 }
    await fc.assert(fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 200 }), fc.boolean(), async (bytes, framed) => {
      const [attacker, inbound] = await streamPair()
      const control = new ControlStream(inbound, options)
      attacker.send(framed ? encodeHead(bytes) : bytes)
      void attacker.close()
      const read = async (): Promise<void> => { for (;;) await control.read() }
      await expect(read()).rejects.toBeInstanceOf(MidspanError)
    }), { numRuns: 40 })
  })
})
