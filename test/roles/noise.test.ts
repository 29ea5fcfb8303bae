import { writeFile } from 'node:fs/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import { Boundary, noiseDeviation, type Protection } from '../../src/model/privacy/boundary.ts'
import { LocalStage } from '../../src/roles/middle/local-stage.ts'
import { GenerationEngine } from '../../src/roles/server/generation/engine.ts'
import { bytesOf, type Tensor } from '../../src/tensor.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { original } from '../helpers/original.ts'
import { watchReleases } from '../helpers/releases.ts'
import { chiSquareDeviation, correlationDeviation, normalFitDeviation, rowNorms } from '../helpers/statistics.ts'
import { startFederation, type TestFederation } from './helpers.ts'

const MODEL = 'stories260K-hf'
const HIDDEN = 64
const CLIP = 3
const floors = { noise: 0.5, gradientNoise: 0.25 }
const TIMEOUT_MS = 120_000

/** What a client's boundary was given, and what it let out. */
interface Released {
  readonly clean: Float32Array
  readonly out: Float32Array
  readonly protection: Protection
}

function releases (): Released[] {
  const seen: Released[] = []
  watchReleases((clean, { tensors }, protection) => {
    seen.push({
      clean: Float32Array.from(clean.data as Float32Array),
      out: Float32Array.from(tensors[0]!.data as Float32Array),
      protection
    })
  })
  return seen
}

/** Rows that reached the server's model by these methods. */
function watchServer (): Float32Array[] {
  const seen: Float32Array[] = []
  const note = (tensors: readonly Tensor[]): void => { seen.push(Float32Array.from(tensors[0]!.data as Float32Array)) }
  const [forward, evaluate] = [original(LocalStage, 'forward'), original(LocalStage, 'evaluate')]
  vi.spyOn(LocalStage.prototype, 'forward').mockImplementation(async function (this: LocalStage, items, options) {
    for (const { tensors } of items) note(tensors)
    const pass = await forward.call(this, items, options)
    const backward = pass.backward.bind(pass)
    vi.spyOn(pass, 'backward').mockImplementation(async (answers) => {
      for (const { tensors } of answers.values()) note(tensors)
      return await backward(answers)
    })
    return pass
  })
  vi.spyOn(LocalStage.prototype, 'evaluate').mockImplementation(async function (this: LocalStage, item) {
    note(item.tensors)
    return await evaluate.call(this, item)
  })
  const compute = original(GenerationEngine, 'compute')
  vi.spyOn(GenerationEngine.prototype, 'compute').mockImplementation(async function (this: GenerationEngine, session, rows) {
    note(rows.tensors)
    return await compute.call(this, session, rows)
  })
  return seen
}

const digest = (values: Float32Array): string =>
  Buffer.from(bytesOf({ dtype: 'float32', shape: [values.length], data: values })).toString('base64')

/** The standardised noise of all releases: what was let out, less the rows after the clip alone. */
function noiseOf (released: readonly Released[]): Float64Array {
  return Float64Array.from(released.flatMap(({ clean, out, protection }) => {
    const deviation = noiseDeviation(protection, HIDDEN)
    const shorten = rowNorms(clean, HIDDEN).map((norm) => Math.min(1, protection.clip! / norm))
    return Array.from(out, (value, i) => (value - (clean[i] as number) * (shorten[Math.floor(i / HIDDEN)] as number)) / deviation)
  }))
}

function expectNoise (released: readonly Released[]): void {
  const noise = noiseOf(released)
  expect(noise.length).toBeGreaterThan(2000)
  expect(Math.abs(chiSquareDeviation(noise))).toBeLessThan(5)
  expect(Math.abs(normalFitDeviation(noise))).toBeLessThan(6)
  for (const lag of [1, HIDDEN / 2, HIDDEN]) expect(Math.abs(correlationDeviation(noise, lag))).toBeLessThan(5)
  // Eight values at a time: equal ones would be noise used twice.
  const pieces = Array.from({ length: Math.floor(noise.length / 8) }, (_, i) => noise.subarray(8 * i, 8 * i + 8).join())
  expect(new Set(pieces).size).toBe(pieces.length)
}

describe.skipIf(!hasData(MODEL))('noise at the boundary of a client at work', { timeout: TIMEOUT_MS }, () => {
  let federation: TestFederation
  beforeAll(async () => {
    federation = await startFederation({ model: dataPath(MODEL), charter: { ...floors, clip: CLIP }, clients: [{ noise: 0.75 }] })
    await writeFile(
      federation.path('notes.txt'),
      Array.from({ length: 60 }, (_, i) => `Lily saw ${i} birds and they sang to her.`).join('\n\n')
    )
  }, TIMEOUT_MS)
  afterEach(() => { vi.restoreAllMocks() })
  afterAll(async () => { await federation.stop() })

  const data = () => ({ data: federation.path('notes.txt'), maxTokens: 32, sequences: 4 })
  const [hidden, gradient] = [{ clip: CLIP, noise: 0.75 }, { clip: CLIP, noise: floors.gradientNoise }]

  /** All that the server computes with left through the boundary, and nothing of it is as it was. */
  function expectReleased (seen: readonly Float32Array[], released: readonly Released[]): void {
    const [outs, cleans] = [new Set(released.map(({ out }) => digest(out))), new Set(released.map(({ clean }) => digest(clean)))]
    expect(seen.length).toBeGreaterThan(0)
    for (const rows of seen) {
      expect(outs.has(digest(rows))).toBe(true)
      expect(cleans.has(digest(rows))).toBe(false)
    }
  }

  it('is on hidden rows and on gradient rows in training, each with its own scale', async () => {
    const [released, seen] = [releases(), watchServer()]
    await federation.clients[0]!.train({ ...data(), rounds: 4, fresh: true })
    const of = ({ noise }: Protection): Released[] => released.filter(({ protection }) => protection.noise === noise)
    expect(released.map(({ protection }) => protection)).toEqual(Array.from({ length: 8 }, (_, i) => i % 2 === 0 ? hidden : gradient))
    expectNoise(of(hidden))
    expectNoise(of(gradient))
    expectReleased(seen, released)
    expect(seen).toHaveLength(8)
  })

  it('is on all rows of an evaluation', async () => {
    const [released, seen] = [releases(), watchServer()]
    await federation.clients[0]!.evaluate({ ...data(), limit: 16 })
    expect(new Set(released.map(({ protection: { noise } }) => noise))).toEqual(new Set([0.75]))
    expectNoise(released)
    expectReleased(seen, released)
  })

  it('is on the prompt and on every token of a generation', async () => {
    const [released, seen] = [releases(), watchServer()]
    await federation.clients[0]!.generate({ prompt: 'Once upon a time there was a girl', maxTokens: 40, seed: 1 })
    expect(released.length).toBeGreaterThanOrEqual(2)
    expectNoise(released)
    expectReleased(seen, released)
  })

  it('differs between two passes of the same rows', async () => {
    const released = releases()
    for (let pass = 0; pass < 2; pass++) await federation.clients[0]!.evaluate({ ...data(), limit: 8 })
    const half = released.length / 2
    const [first, second] = [released.slice(0, half), released.slice(half)]
    expect(first.map(({ clean }) => digest(clean))).toEqual(second.map(({ clean }) => digest(clean)))
    const noise = noiseOf(first)
    const other = noiseOf(second)
    expect(Math.abs(chiSquareDeviation(noise.map((value, i) => (value - (other[i] as number)) / Math.SQRT2)))).toBeLessThan(5)
  })

  it('goes on rows that are no longer than the clip', async () => {
    const release = original(Boundary, 'protect')
    const clipped: Float32Array[] = []
    const released: number[] = []
    vi.spyOn(Boundary.prototype, 'protect').mockImplementation(async function (this: Boundary, rows, protection) {
      const [values] = (await release.call(this, rows, { ...protection, noise: 0 })).tensors
      clipped.push(Float32Array.from(values!.data as Float32Array))
      const result = await release.call(this, rows, protection)
      released.push(...rowNorms(result.tensors[0]!.data as Float32Array, HIDDEN))
      return result
    })
    await federation.clients[0]!.train({ ...data(), rounds: 2, fresh: true })
    const norms = clipped.flatMap((values) => rowNorms(values, HIDDEN))
    expect(Math.max(...norms)).toBeLessThanOrEqual(CLIP * 1.00001)
    expect(norms.filter((norm) => norm > CLIP * 0.9999).length).toBeGreaterThan(0)
    // And the clip comes before the noise, which goes beyond it.
    expect(Math.max(...released)).toBeGreaterThan(CLIP * 1.2)
  })

  it('is in the ledger, row for row as the server got them, also after a restart', async () => {
    const client = federation.clients[0]!
    const counted = async (): Promise<Record<string, number>> => {
      const { releases } = await client.peer.ask<ResultOf<'privacy'>>('privacy')
      return Object.fromEntries(releases.flatMap(({ purpose, kind, rows, sequences }) => [
        [`${purpose} ${kind}`, rows], [`sequences of ${purpose} ${kind}`, sequences]
      ]))
    }
    const before = await counted()
    const seen = watchServer()
    /** Rows that came since this was last asked; the same bytes are the same rows. */
    const taken = (): number => {
      const rows = new Map(seen.splice(0).map((values) => [digest(values), values.length / HIDDEN]))
      return [...rows.values()].reduce((sum, count) => sum + count, 0)
    }
    await client.train({ ...data(), rounds: 3, fresh: true })
    const trained = taken()
    await client.evaluate({ ...data(), limit: 6 })
    const evaluated = taken()
    await client.generate({ prompt: 'Lily saw a bird', maxTokens: 5 })
    const generated = taken()
    await client.peer.stop()
    await client.peer.start()
    const after = await counted()
    const since = (name: string): number => after[name]! - (before[name] ?? 0)
    expect(trained).toBeGreaterThan(0)
    expect(since('train hidden')).toBe(trained / 2)
    expect(since('train gradient')).toBe(trained / 2)
    expect(since('evaluate hidden')).toBe(evaluated)
    expect(since('generate hidden')).toBe(generated)
    expect(since('sequences of generate hidden')).toBe(1)
  })

  it.each(['noise', 'gradientNoise'] as const)('cannot be below the charter\'s floor: %s', async (field) => {
    const released = releases()
    await expect(federation.clients[0]!.train({ ...data(), rounds: 1, [field]: floors[field] * 0.99 })).rejects.toMatchObject({
      code: 'E_SETTING_REFUSED',
      message: expect.stringContaining(field) as string
    })
    await expect(federation.join(`below-${field}`, { [field]: floors[field] * 0.99 })).rejects.toMatchObject({
      code: 'E_SETTING_REFUSED',
      message: expect.stringContaining(field) as string
    })
    expect(released).toEqual([])
  })
})
