import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MAX_MAP_HIDDEN, MiddleMap } from '../../../../src/model/generation/speculation/middle-map.ts'
import { solveRidge } from '../../../../src/model/generation/speculation/ridge-solver.ts'
import { SeededRandom } from '../../../../src/model/random.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { float32, type Tensor } from '../../../../src/tensor.ts'
import { relativeError } from '../../../helpers/golden.ts'

const HIDDEN = 4

function randoms (count: number, seed: string): Float32Array {
  const random = new SeededRandom(seed)
  return Float32Array.from({ length: count }, () => 2 * random.nextFloat() - 1)
}

const normalized = (x: Float32Array): Float32Array => {
  const rms = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length)
  return x.map((value) => value / rms)
}

/** A middle that is a linear map of its normalised input and of what left it before. */
function middle (entering: Float32Array, before: Float32Array): Float32Array {
  const [a, b] = [normalized(entering), normalized(before)]
  return Float32Array.from({ length: HIDDEN }, (_, i) => 3 * a[i]! - b[(i + 1) % HIDDEN]! + 0.5)
}

/** A sequence of states that enter and leave such a middle. */
function sequence (length: number, seed: string): { entering: Float32Array, leaving: Float32Array } {
  const entering = randoms(length * HIDDEN, seed)
  const leaving = new Float32Array(length * HIDDEN)
  for (let i = 0; i < length; i++) {
    const before = i === 0 ? Float32Array.of(1, 2, 3, 4) : leaving.subarray((i - 1) * HIDDEN, i * HIDDEN)
    leaving.set(middle(entering.subarray(i * HIDDEN, (i + 1) * HIDDEN), before), i * HIDDEN)
  }
  return { entering, leaving }
}

describe('the solver of ridge regressions', () => {
  it('solves what it says', () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 5 }), fc.string(), (n, m, seed) => {
      const z = randoms(20 * n, seed)
      const zz = Float32Array.from({ length: n * n }, (_, at) =>
        Array.from({ length: 20 }, (_, row) => z[row * n + Math.floor(at / n)]! * z[row * n + at % n]!).reduce((a, b) => a + b))
      const zy = randoms(n * m, `${seed} y`)
      const x = solveRidge({ inputs: n, outputs: m, zz, zy }, 0.5)
      for (let i = 0; i < n; i++) {
        for (let k = 0; k < m; k++) {
          let sum = 0.5 * x[i * m + k]!
          for (let j = 0; j < n; j++) sum += zz[i * n + j]! * x[j * m + k]!
          expect(sum).toBeCloseTo(zy[i * m + k]!, 3)
        }
      }
    }))
  })

  it('refuses sums that are not those of finite pairs', () => {
    expect(() => solveRidge({ inputs: 1, outputs: 1, zz: Float32Array.of(NaN), zy: Float32Array.of(1) }, 1)).toThrow(RangeError)
  })
})

describe('a map of the middle', () => {
  let device: Device
  beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
  afterAll(async () => { await device.close() })

  const predicted = async (map: MiddleMap, entering: Float32Array, before: Float32Array): Promise<Float32Array> => {
    const call = await map.predictCall(float32([1, HIDDEN], entering), float32([1, HIDDEN], before))
    return ((await device.runSequence([call])).predicted as Tensor).data as Float32Array
  }

  /** A map that has learnt from sequences that come in pieces. */
  const learnt = async (onFit?: () => void): Promise<MiddleMap> => {
    const map = new MiddleMap(device, HIDDEN, onFit)
    for (let text = 0; text < 12; text++) {
      const { entering, leaving } = sequence(300, `text ${text}`)
      let before: Float32Array | undefined
      for (let at = 0; at < 300; at += 50) {
        const [from, to] = [at * HIDDEN, (at + 50) * HIDDEN]
        map.observe(at, entering.subarray(from, to), leaving.subarray(from, to), before)
        before = leaving.subarray(to - HIDDEN, to)
      }
    }
    await map.settled()
    return map
  }

  it('predicts what it has learnt, is told of each fit, goes on from its state, and frees all that it holds', async () => {
    const held = async (): Promise<number> => (await device.memory()).heldBytes
    const before = await held()
    let fits = 0
    const map = await learnt(() => { fits++ })
    expect(map.isReady).toBe(true)
    expect(fits).toBeGreaterThan(0)
    expect(map.pairs).toBeGreaterThan(3_000)
    const [entering, last] = [randoms(HIDDEN, 'new'), randoms(HIDDEN, 'last')]
    const guess = await predicted(map, entering, last)
    expect(relativeError(guess, middle(entering, last))).toBeLessThan(0.02)
    const again = new MiddleMap(device, HIDDEN)
    await again.restore((await map.state())!)
    expect(await predicted(again, entering, last)).toEqual(guess)
    expect(again.pairs).toBe(map.pairs)
    await map.close()
    await again.close()
    expect(await held()).toBe(before)
  })

  it('learns nothing of the first states of a text', async () => {
    const map = new MiddleMap(device, HIDDEN)
    const { entering, leaving } = sequence(4, 'short')
    for (let i = 0; i < 600; i++) map.observe(0, entering, leaving, undefined)
    await map.settled()
    expect(map.pairs).toBe(0)
    await map.close()
  })

  it('is refused for states wider than MAX_MAP_HIDDEN', () => {
    expect(() => new MiddleMap(device, MAX_MAP_HIDDEN + 1)).toThrow(RangeError)
  })
})
