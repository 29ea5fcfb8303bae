import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { narrow, widen } from '../../../src/model/checkpoint/conversion.ts'
import { SafetensorsError } from '../../../src/model/checkpoint/errors.ts'
import { encodeHeader, parseHeader, readHeaderLength } from '../../../src/model/checkpoint/header.ts'
import { SafetensorsFile, writeSafetensors, writeSafetensorsFrom } from '../../../src/model/checkpoint/safetensors.ts'
import { float32, int32, tensor } from '../../../src/tensor.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'midspan-safetensors-'))
})
afterAll(async () => {
  await rm(dir, { recursive: true })
})

/** Parses a header given as JSON over a file with this much data. */
function parse (header: unknown, dataBytes: number): unknown {
  const bytes = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header))
  return parseHeader(bytes, 8 + bytes.byteLength + dataBytes, 'f')
}

const entry = (begin: number, end: number, shape: unknown = [(end - begin) / 4], dtype: unknown = 'F32'): object => ({
  dtype,
  shape,
  data_offsets: [begin, end]
})

describe('a safetensors header', () => {
  it.each([
    ['does not start with a brace', ' {}', 0, "start with '{'"],
    ['is not JSON', '{"a":', 0, 'not valid JSON'],
    ['has a tensor that is no object', { a: 3 }, 0, 'not a JSON object'],
    ['names an unknown type', { a: entry(0, 4, [1], 'F33') }, 4, 'unknown type "F33"'],
    ['names a type of the prototype', { a: entry(0, 4, [1], 'constructor') }, 4, 'unknown type'],
    ['has a negative size', { a: entry(0, 4, [-1]) }, 4, 'impossible shape'],
    ['has a fractional size', { a: entry(0, 4, [0.5]) }, 4, 'impossible shape'],
    ['has a shape beyond any memory', { a: entry(0, 4, [2 ** 40, 2 ** 40]) }, 4, 'impossible shape'],
    ['has a shape that no number tells', { a: entry(0, 4, [...new Array<number>(30).fill(2 ** 52), 0]) }, 4, 'impossible shape'],
    [
      'nests its shape deeper than can be shown',
      `{"a":{"dtype":"F32","shape":${'['.repeat(1e5)}${']'.repeat(1e5)},"data_offsets":[0,4]}}`,
      4,
      'impossible shape an array too deep to show'
    ],
    ['has a shape that does not fill its bytes', { a: entry(0, 8, [1]) }, 8, 'takes 4 bytes, not 8'],
    ['has reversed offsets', { a: entry(4, 0, [0]) }, 4, 'lies at [4, 0)'],
    ['reaches past the file', { a: entry(0, 8) }, 4, 'lies at [0, 8) of 4'],
    ['overlaps', { a: entry(0, 8), b: entry(4, 12) }, 12, '"b" overlaps'],
    ['leaves a hole', { a: entry(0, 4), b: entry(8, 12) }, 12, '4 bytes before tensor "b"'],
    ['leaves bytes at the end', { a: entry(0, 4) }, 6, 'last 2 bytes'],
    [
      'names a tensor twice',
      `{"a":${JSON.stringify(entry(0, 4))}, "b":{"a":1}, "\\u0061" :${JSON.stringify(entry(4, 8))}}`,
      8,
      'names tensor "a" twice'
    ],
    [
      'names a tensor twice, with equal entries',
      `{"a":${JSON.stringify(entry(0, 4))},"a":${JSON.stringify(entry(0, 4))}}`,
      4,
      'names tensor "a" twice'
    ],
    ['has metadata that is no string', { __metadata__: { a: 1 } }, 0, 'not a string']
  ])('is refused when it %s', (_, header, dataBytes, message) => {
    expect(() => parse(header, dataBytes)).toThrow(SafetensorsError)
    expect(() => parse(header, dataBytes)).toThrow(message)
  })

  it('is refused when its length is 2 GB, or beyond the file', () => {
    const prefix = (length: bigint): Uint8Array => new Uint8Array(new BigUint64Array([length]).buffer)
    expect(() => readHeaderLength(prefix(2n ** 31n), 2 ** 40, 'f')).toThrow('at most 100000000')
    expect(() => readHeaderLength(prefix(2n ** 64n - 1n), 2 ** 40, 'f')).toThrow('at most 100000000')
    expect(() => readHeaderLength(prefix(10n), 17, 'f')).toThrow('only 9 follow')
  })

  it('accepts scalars and empty tensors', () => {
    const header = parse({ a: entry(0, 4, []), b: entry(4, 4, [0, 7]) }, 4) as { tensors: Map<string, { bytes: number }> }
    expect(header.tensors.get('b')!.bytes).toBe(0)
  })

  it('either parses or throws SafetensorsError, whatever bytes a peer sends', () => {
    const mutated = fc.tuple(fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }), fc.nat(40))
    fc.assert(
      fc.property(mutated, ([changes, cut]) => {
        const { head, fileBytes } = encodeHeader(
          new Map([['a.weight', { dtype: 'F32', shape: [2, 3] }], ['b', { dtype: 'BF16', shape: [5] }]]),
          { format: 'pt' }
        )
        const bytes = head.slice(8, head.byteLength - cut)
        for (const [at, value] of changes) bytes[at % bytes.byteLength] = value
        try {
          for (const { start, bytes: size } of parseHeader(bytes, fileBytes - cut, 'f').tensors.values())
            expect(start + size).toBeLessThanOrEqual(fileBytes - cut)
        } catch (error) {
          expect(error).toBeInstanceOf(SafetensorsError)
        }
      }),
      { numRuns: 500 }
    )
  })

  it('either parses or throws SafetensorsError, whatever JSON a peer sends', () => {
    fc.assert(
      fc.property(
        fc.dictionary(
          fc.string(),
          fc.oneof(
            fc.jsonValue(),
            fc.record({
              dtype: fc.constantFrom('F32', 'I64', 'F8_E4M3', 4),
              shape: fc.array(fc.integer()),
              data_offsets: fc.array(fc.nat(64))
            })
          )
        ),
        fc.nat(64),
        (header, dataBytes) => {
          try {
            parse(header, dataBytes)
          } catch (error) {
            expect(error).toBeInstanceOf(SafetensorsError)
          }
        }
      )
    )
  })
})

describe('a safetensors file', () => {
  it('gives back what was written, in each type', async () => {
    const path = join(dir, 'types.safetensors')
    const tensors = new Map([
      ['b', float32([2, 2], [1, -2, 3.5, -0])],
      ['a', tensor('bool', [3], Uint8Array.of(1, 0, 1))],
      ['c', tensor('int64', [1], BigInt64Array.of(-5n))],
      ['d', int32([2], [7, -7])],
      ['e', tensor('float16', [1], Uint16Array.of(0x3c00))]
    ])
    await writeSafetensors(path, tensors)
    const file = await SafetensorsFile.open(path)
    expect(file.metadata.get('format')).toBe('pt')
    for (const [name, expected] of tensors) expect(await file.readAsStored(name)).toEqual(expected)
    expect((await file.read('e')).data).toEqual(Float32Array.of(1))
    await expect(file.read('d')).rejects.toThrow('I32 values')
    expect(await file.readRaw('d', 4, 4)).toEqual(new Uint8Array(Int32Array.of(-7).buffer))
    await expect(file.readRaw('d', 4, 5)).rejects.toThrow(RangeError)
    await expect(file.read('z')).rejects.toMatchObject({ code: 'E_TENSOR_MISSING' })
  })

  it('aligns its data and every tensor in it', async () => {
    const path = join(dir, 'aligned.safetensors')
    await writeSafetensors(
      path,
      new Map([['a', tensor('uint8', [3], new Uint8Array(3))], ['z', tensor('int64', [1], new BigInt64Array(1))], ['m', float32([1], [1])]])
    )
    const { tensors } = await SafetensorsFile.open(path)
    expect([...tensors].sort(([, a], [, b]) => a.start - b.start).map(([name]) => name)).toEqual(['z', 'm', 'a'])
    expect([tensors.get('z')!.start % 8, tensors.get('m')!.start % 4]).toEqual([0, 0])
  })

  it('is refused by name when it is cut short', async () => {
    const path = join(dir, 'cut.safetensors')
    await writeSafetensors(path, new Map([['a', float32([4], [1, 2, 3, 4])]]))
    const { length } = await readFile(path)
    for (const size of [0, 5, 8, 20, length - 1]) {
      await truncate(path, size)
      await expect(SafetensorsFile.open(path)).rejects.toThrow(path)
      await writeSafetensors(path, new Map([['a', float32([4], [1, 2, 3, 4])]]))
    }
  })

  it('keeps the old file when writing fails', async () => {
    const path = join(dir, 'kept.safetensors')
    await writeSafetensors(path, new Map([['a', float32([1], [1])]]))
    await expect(writeSafetensorsFrom(path, new Map([['a', { dtype: 'F32', shape: [2] }]]), () => [new Uint8Array(4)])).rejects.toThrow(
      'needs 8 bytes'
    )
    expect((await (await SafetensorsFile.open(path)).read('a')).data).toEqual(Float32Array.of(1))
    expect((await readdir(dir)).filter((name) => name.endsWith('.tmp'))).toEqual([])
  })

  it.each(['F32', 'F16', 'BF16', 'F64'] as const)(
    'names the tensor that holds NaN or infinity as %s, in whichever of its pieces',
    async (dtype) => {
      const path = join(dir, `nan-${dtype}.safetensors`)
      const count = 2 ** 20 + 3
      const bytesOf = (values: Float32Array): Uint8Array =>
        dtype === 'F64' ? new Uint8Array(Float64Array.from(values).buffer) : narrow(dtype, values)
      for (const [place, value] of [[count - 1, NaN], [5, -Infinity], [2 ** 19, Infinity]] as const) {
        const values = new Float32Array(count).fill(-1.5)
        values[place] = value
        await writeSafetensorsFrom(
          path,
          new Map([['bad', { dtype, shape: [count] }], ['good', { dtype, shape: [1] }]]),
          (name) => [bytesOf(name === 'bad' ? values : Float32Array.of(2))]
        )
        const file = await SafetensorsFile.open(path)
        await expect(file.read('bad')).rejects.toMatchObject({
          code: 'E_SAFETENSORS',
          message: `${path}: tensor bad holds values that are NaN or infinite`
        })
        expect((await file.read('good')).data).toEqual(Float32Array.of(2))
      }
    }
  )

  it('reads tensors of many pieces, whatever their length', async () => {
    const path = join(dir, 'pieces.safetensors')
    for (const dtype of ['F32', 'BF16'] as const) {
      const values = Float32Array.from({ length: 2 * 2 ** 20 + 7 }, (_, i) => i % 251)
      await writeSafetensorsFrom(path, new Map([['a', { dtype, shape: [values.length] }]]), () => [narrow(dtype, values)])
      const { data } = await (await SafetensorsFile.open(path)).read('a')
      expect(Buffer.compare(Buffer.from(data.buffer), Buffer.from(values.buffer))).toBe(0)
    }
  })

  it('names the tensor within which it was cut short after it was opened', async () => {
    const path = join(dir, 'shrunk.safetensors')
    await writeSafetensors(path, new Map([['a', float32([2 ** 20], new Float32Array(2 ** 20))]]))
    const file = await SafetensorsFile.open(path)
    await truncate(path, 2 ** 21 + 8)
    await expect(file.read('a')).rejects.toThrow(`${path}: it ended within tensor a`)
  })

  it('stops reading when told to', async () => {
    const path = join(dir, 'abort.safetensors')
    await writeSafetensors(path, new Map([['a', float32([1], [1])]]))
    await expect((await SafetensorsFile.open(path)).read('a', AbortSignal.abort())).rejects.toThrow('abort')
    await writeFile(path, '')
  })
})

describe('stored floats', () => {
  it('widen from float16 by the definition of the format', () => {
    const cases: Array<[number, number]> = [
      [0x0001, 2 ** -24],
      [0x03ff, 1023 * 2 ** -24],
      [0x0400, 2 ** -14],
      [0x7bff, 65504],
      [0xc000, -2],
      [0x7c00, Infinity],
      [0xfc00, -Infinity],
      [0x8000, -0]
    ]
    const out = new Float32Array(cases.length)
    widen('F16', new Uint8Array(Uint16Array.from(cases, ([bits]) => bits).buffer), out)
    expect([...out]).toEqual(cases.map(([, value]) => value))
  })

  it('widen from any offset and from float64', () => {
    const out = new Float32Array(2)
    const shifted = new Uint8Array(5)
    shifted.set([0x80, 0x3f, 0x00, 0xc0], 1)
    widen('BF16', shifted.subarray(1), out)
    expect([...out]).toEqual([1, -2])
    widen('F64', new Uint8Array(Float64Array.of(0.1, 2).buffer), out)
    expect([...out]).toEqual([Math.fround(0.1), 2])
  })

  it.each(['F16', 'BF16'] as const)('survive a round trip through %s for every value it has', (dtype) => {
    const all = Uint16Array.from({ length: 65536 }, (_, bits) => bits)
    const wide = new Float32Array(65536)
    widen(dtype, new Uint8Array(all.buffer), wide)
    const back = new Uint16Array(narrow(dtype, wide).buffer)
    for (let bits = 0; bits < 65536; bits++) if (!Number.isNaN(wide[bits])) expect(back[bits]).toBe(bits)
    expect(Number.isNaN(wide[0x7fff])).toBe(true)
  })

  it('narrow to the nearest value, ties to even', () => {
    const wide = new Float32Array(65536)
    for (const dtype of ['F16', 'BF16'] as const) {
      widen(dtype, new Uint8Array(Uint16Array.from({ length: 65536 }, (_, bits) => bits).buffer), wide)
      const finite = [...wide.subarray(0, dtype === 'F16' ? 0x7c00 : 0x7f80)]
      fc.assert(fc.property(fc.nat(finite.length - 2), fc.float({ min: 0, max: 1, noNaN: true }), (at, share) => {
        const [low, high] = [finite[at]!, finite[at + 1]!]
        const value = Math.fround(low + (high - low) * share)
        const expected = value - low < high - value || (value - low === high - value && at % 2 === 0) ? at : at + 1
        expect(new Uint16Array(narrow(dtype, Float32Array.of(value)).buffer)[0]).toBe(expected)
      }))
    }
  })
})
