import { randomBytes } from 'node:crypto'
import { truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { create, toBinary } from '@bufbuild/protobuf'
import { StringValueSchema } from '@bufbuild/protobuf/wkt'
import { streamPair } from '@libp2p/utils'
import { describe, expect, it } from 'vitest'
import { parseParameters } from '../../src/api/check.ts'
import { MAX_INVITE_MS } from '../../src/api/invite.ts'
import { MAX_PREVIEW_RECORDS } from '../../src/api/preview.ts'
import { MidspanError } from '../../src/errors.ts'
import { MAX_COMPANION_BYTES, openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { MAX_BLOCKS, MAX_CHARTER_BYTES, MAX_CHARTER_DEPTH, MAX_FILES, MAX_TENSORS } from '../../src/protocols/charter/constants.ts'
import { CharterInvalidError, signCharter, verifyCharter, type Charter } from '../../src/protocols/charter/index.ts'
import * as generate from '../../src/protocols/generate/constants.ts'
import * as handover from '../../src/protocols/handover/constants.ts'
import * as train from '../../src/protocols/train/constants.ts'
import { decodeBody, encodeBody, maxBodyBytes } from '../../src/protocols/wire/body.ts'
import { acceptChannel } from '../../src/protocols/wire/channel.ts'
import {
  MAX_CONTROL_MESSAGE_BYTES,
  MAX_CONTROL_PAYLOAD_BYTES,
  MAX_FAILURE_MESSAGE_CHARS,
  MAX_FRAME_HEADER_BYTES,
  MAX_HANDSHAKE_MESSAGE_BYTES,
  MAX_LAST_WORDS_BYTES,
  MAX_TENSOR_HEADER_BYTES,
  MAX_TENSOR_RANK
} from '../../src/protocols/wire/constants.ts'
import { ControlStream } from '../../src/protocols/wire/control.ts'
import { failureOf } from '../../src/protocols/wire/failure.ts'
import { decodeFrames, encodeLength } from '../../src/protocols/wire/framing.ts'
import { FrameOpener } from '../../src/protocols/wire/opener.ts'
import { FrameSealer } from '../../src/protocols/wire/sealer.ts'
import { StreamSource } from '../../src/protocols/wire/source.ts'
import { BodyHeaderSchema } from '../../src/protocols/wire/wire_pb.ts'
import { generateLimits, handoverLimits, trainLimits } from '../../src/roles/message-limits.ts'
import { float32, type Tensor } from '../../src/tensor.ts'
import { textOptions } from '../helpers/channels.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { charterOf, keyOf } from './charter/fixture.ts'

const text = (value: string) => create(StringValueSchema, { value })
const tooLarge = { code: 'E_FRAME_TOO_LARGE' }

describe('the limits of a charter', () => {
  const fieldOf = async (change: (charter: Charter) => object): Promise<string | undefined> => {
    const charter = await charterOf(1)
    return await signCharter({ ...charter, ...change(charter) }, await keyOf(1)).then(() => undefined, (error: unknown) => {
      if (error instanceof CharterInvalidError) return error.field
      throw error
    })
  }
  const many = <T>(count: number, name: (i: number) => string, value: T): Record<string, T> =>
    Object.fromEntries(Array.from({ length: count }, (_, i) => [name(i), value]))

  it.each([['blocks', MAX_BLOCKS], ['tensors', MAX_TENSORS], ['files', MAX_FILES]] as const)('hold for %s', async (field, most) => {
    const sized = (count: number) => ({ model }: Charter) => ({
      model: {
        ...model,
        ...(field === 'blocks' ? { blocks: count } : {}),
        ...(field === 'tensors' ? { tensors: many(count, String, model.tensors['model.norm.weight']!) } : {}),
        ...(field === 'files' ? { files: many(count, (i) => `${i}.json`, model.files['config.json']!) } : {})
      }
    })
    expect(await fieldOf(sized(most + 1))).toBe(`model.${field}`)
    expect(await fieldOf(sized(most))).not.toBe(`model.${field}`)
  })

  it('hold for its depth and its bytes', async () => {
    const nested = (depth: number): unknown => depth === 0 ? 1 : { x: nested(depth - 1) }
    const charter = await charterOf(1)
    const model = { ...charter.model, config: nested(MAX_CHARTER_DEPTH) as Charter['model']['config'] }
    const deep = signCharter({ ...charter, model }, await keyOf(1))
    await expect(deep.then(({ bytes }) => verifyCharter(bytes))).rejects.toThrow(/nests more than/)
    await expect(verifyCharter(new Uint8Array(MAX_CHARTER_BYTES + 1))).rejects.toThrow(`more than ${MAX_CHARTER_BYTES}`)
  })
})

describe('the limits of frames', () => {
  const binding = { protocol: '/midspan/test/1', sessionId: new Uint8Array(16), direction: 'c2s' } as const

  it('hold for control messages and what is beside them', async () => {
    const [outbound] = await streamPair()
    const control = new ControlStream(outbound, { outgoing: StringValueSchema, incoming: StringValueSchema, maxPayloadBytes: Infinity })
    await expect(control.write(text('x'.repeat(MAX_CONTROL_MESSAGE_BYTES)))).rejects.toMatchObject(tooLarge)
    await expect(control.write(text('x'), new Uint8Array(MAX_CONTROL_PAYLOAD_BYTES + 1))).rejects.toMatchObject(tooLarge)
  })

  it('hold for handshakes', async () => {
    const [outbound, inbound] = await streamPair()
    const { server } = await textOptions()
    const accepted = acceptChannel(inbound, server)
    const stranger = new ControlStream(outbound, { outgoing: StringValueSchema, incoming: StringValueSchema })
    await stranger.write(text('x'.repeat(MAX_HANDSHAKE_MESSAGE_BYTES)))
    await expect(accepted).rejects.toMatchObject(tooLarge)
  })

  it('hold for headers', async () => {
    const [outbound, inbound] = await streamPair()
    const frames = decodeFrames(new StreamSource(inbound, 5_000), new FrameOpener(randomBytes(32), binding, 1000))
    outbound.send(Uint8Array.from(encodeLength(MAX_FRAME_HEADER_BYTES + 1)))
    await expect(frames.next()).rejects.toMatchObject(tooLarge)
  })

  it('hold for last words, which every failure keeps', () => {
    const secret = randomBytes(32)
    const headerOf = (bytes: number): Uint8Array => {
      const [first] = new FrameSealer(secret, binding).seal('failure', [new Uint8Array(bytes)])
      const frame = first!.subarray()
      return frame.subarray(1, 1 + frame[0]!)
    }
    const opener = new FrameOpener(secret, binding, 2 ** 20)
    expect(() => opener.parse(headerOf(MAX_LAST_WORDS_BYTES + 1))).toThrow(expect.objectContaining(tooLarge) as Error)
    expect(() => opener.parse(headerOf(MAX_LAST_WORDS_BYTES))).not.toThrow()
    const failure = failureOf(new MidspanError('E_LONG', '桥'.repeat(2 * MAX_FAILURE_MESSAGE_CHARS)))
    expect(failure.message).toHaveLength(MAX_FAILURE_MESSAGE_CHARS)
    expect(Buffer.byteLength(failure.message) + 100).toBeLessThanOrEqual(MAX_LAST_WORDS_BYTES)
  })

  it('hold for the rank of tensors, and leave room for the header of any', () => {
    const limits = { maxMessageBytes: 10, maxTensorBytes: 10, maxTensors: 1 }
    const ranked = (rank: number): Tensor => float32(Array.from({ length: rank }, () => 1), [1])
    expect(() => encodeBody({ message: new Uint8Array(0), tensors: [ranked(MAX_TENSOR_RANK + 1)] }, limits))
      .toThrow(expect.objectContaining(tooLarge) as Error)
    const described = (rank: number): Uint8Array => {
      const header = toBinary(BodyHeaderSchema, create(BodyHeaderSchema, {
        message: new Uint8Array(0), tensors: [{ dtype: 0, shape: Array.from({ length: rank }, () => 2 ** 32 - 1) }]
      }))
      return Uint8Array.from([...encodeLength(header.byteLength), ...header])
    }
    expect(described(MAX_TENSOR_RANK).byteLength).toBeLessThanOrEqual(MAX_TENSOR_HEADER_BYTES)
    expect(maxBodyBytes({ ...limits, maxTensors: 2 }) - maxBodyBytes(limits)).toBeGreaterThanOrEqual(MAX_TENSOR_HEADER_BYTES)
    expect(() => decodeBody(described(MAX_TENSOR_RANK + 1), limits)).toThrow(expect.objectContaining(tooLarge) as Error)
  })

  it('are those of the protocols', async () => {
    const charter = await charterOf(1)
    for (const [limits, { MAX_MESSAGE_BYTES, MAX_TENSORS: most }] of [
      [trainLimits(charter, []), train], [generateLimits(charter), generate], [handoverLimits(charter), handover]
    ] as const) {
      expect(() => encodeBody({ message: new Uint8Array(MAX_MESSAGE_BYTES + 1), tensors: [] }, limits))
        .toThrow(expect.objectContaining(tooLarge) as Error)
      const none = float32([0], [])
      expect(() => encodeBody({ message: new Uint8Array(0), tensors: Array.from({ length: most + 1 }, () => none) }, limits))
        .toThrow(expect.objectContaining(tooLarge) as Error)
      encodeBody({ message: new Uint8Array(MAX_MESSAGE_BYTES), tensors: Array.from({ length: most }, () => none) }, limits)
    }
  })
})

describe('the limits of what users give', () => {
  it('hold for invites and previews', () => {
    const invite = (expiresMs: number): unknown => parseParameters('invite', { role: 'client', expiresMs, uses: 1 })
    expect(() => invite(MAX_INVITE_MS + 1)).toThrow('an invite expires within ten years')
    invite(MAX_INVITE_MS)
    const preview = (records: number): unknown => parseParameters('preview', { data: 'x', records })
    expect(() => preview(MAX_PREVIEW_RECORDS + 1)).toThrow(/^preview: records: /)
    preview(MAX_PREVIEW_RECORDS)
  })

  it('hold for the files beside a model\'s weights', async () => {
    const dir = await temporaryDirectory()
    await writeTinyModel(dir)
    await writeFile(join(dir, 'config.json'), '')
    await truncate(join(dir, 'config.json'), MAX_COMPANION_BYTES + 1)
    await expect(openModelDirectory(dir)).rejects.toThrow(`at most ${MAX_COMPANION_BYTES} are read`)
  })
})
