import fc from 'fast-check'
import { expect, it } from 'vitest'
import { MIN_CONTRIBUTORS } from '../../../../src/roles/training/aggregation/secure/constants.ts'
import { FRACTION_BITS } from '../../../../src/roles/training/aggregation/secure/fixed-point.ts'
import { attemptOf, exchange, named, steps, type Step } from './exchange.ts'

/** Seconds on an idle machine: thousands of agreements on keys. */
const TIMEOUT_MS = 120_000

/** Steps before which a lost contributor has not contributed yet. */
const beforeSum: ReadonlySet<Step> = new Set(['advertise', 'share', 'mask'])

function inputsOf (peers: readonly string[], values: number): Map<string, Float32Array> {
  return new Map(peers.map((peer, index) =>
    [peer, Float32Array.from({ length: values }, (_, place) => Math.sin(index * 31 + place) * 10 ** (place % 7 - 4))]))
}

async function expectSum (peers: readonly string[], lost: ReadonlyMap<string, Step>): Promise<void> {
  const values = 9
  const inputs = inputsOf(peers, values)
  const outcome = await exchange({ attempt: attemptOf(values), inputs, lost })
  const present = peers.filter((peer) => !beforeSum.has(lost.get(peer) ?? 'reveal'))
  expect(outcome?.survivors).toEqual(present)
  for (let place = 0; place < values; place++) {
    const exact = present.reduce((sum, peer) => sum + inputs.get(peer)![place]!, 0)
    const error = Math.abs(outcome!.sum[place]! - exact)
    expect(error).toBeLessThanOrEqual(present.length * 2 ** -(FRACTION_BITS + 1) + Math.abs(exact) * 2 ** -24)
  }
}

it('gives the exact sum of those who contributed, with up to a third lost at any step', async () => {
  await fc.assert(fc.asyncProperty(
    fc.integer({ min: 3, max: 12 }).chain((count) => fc.tuple(
      fc.constant(count),
      fc.uniqueArray(fc.integer({ min: 0, max: count - 1 }), { maxLength: Math.floor(count / 3) }),
      fc.array(fc.constantFrom(...steps), { minLength: 5, maxLength: 5 })
    )),
    async ([count, lost, when]) => {
      const peers = named(count)
      const gone = new Map(lost.map((index, place) => [peers[index]!, when[place % when.length]!]))
      // A sum of two is none, whoever else was there.
      fc.pre(count - [...gone.values()].filter((step) => beforeSum.has(step)).length >= MIN_CONTRIBUTORS)
      await expectSum(peers, gone)
    }
  ), { numRuns: 12 })
}, TIMEOUT_MS)

it('does so for 64 contributors of whom 21 are lost, some at each step', async () => {
  const peers = named(64)
  await expectSum(peers, new Map(Array.from({ length: 21 }, (_, index) => [peers[index * 3]!, steps[1 + index % 4]!])))
}, TIMEOUT_MS)

it.each(steps.slice(1))('has no sum where more than a third are lost before they %s', async (step) => {
  const peers = named(7)
  const lost = new Map(peers.slice(0, 3).map((peer) => [peer, step]))
  expect(await exchange({ attempt: attemptOf(4), inputs: inputsOf(peers, 4), lost })).toBeUndefined()
})

it('has no sum of two contributors, each of whom would know what the other one added', async () => {
  const peers = named(2)
  expect(await exchange({ attempt: attemptOf(1), inputs: inputsOf(peers, 1) })).toBeUndefined()
})
