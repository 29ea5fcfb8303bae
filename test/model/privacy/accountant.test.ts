import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { epsilonOf, logDelta, muSquaredOfRow } from '../../../src/model/privacy/accountant.ts'
import { dataDirectory } from '../../helpers/data.ts'

/** As test/reference/gaussian_mechanism_golden.py writes them. */
interface Vectors {
  /** mu, delta, epsilon. */
  readonly epsilon: ReadonlyArray<readonly [mu: number, delta: number, epsilon: number]>
}

const golden = JSON.parse(readFileSync(path.join(import.meta.dirname, '../../reference/gaussian-mechanism.json'), 'utf8')) as Vectors

/** Vectors beside the test data; those of Opacus's subsampled mechanism among them are of no use here. */
const sharedPath = path.join(dataDirectory, '../reference/gaussian-mechanism-vectors.json')

interface SharedVectors {
  readonly sigma_for_eps_delta_sens1: ReadonlyArray<readonly [epsilon: number, delta: number, sigma: number]>
  readonly eps_for_sigma_delta_sens1: ReadonlyArray<readonly [sigma: number, delta: number, epsilon: number]>
  readonly compose_k: ReadonlyArray<readonly [sigma: number, releases: number, delta: number, epsilon: number]>
}

function expectEpsilon (mu: number, delta: number, epsilon: number): void {
  expect(Math.abs(epsilonOf(mu, delta) - epsilon) / Math.max(1, epsilon), `mu ${mu}, delta ${delta}`).toBeLessThan(1e-6)
}

describe('the accountant of the Gaussian mechanism', () => {
  it('has the epsilon of dp_accounting', () => {
    for (const vector of golden.epsilon) expectEpsilon(...vector)
  })

  it.skipIf(!existsSync(sharedPath))('has the epsilon of the shared vectors, composed ones among them', () => {
    const shared = JSON.parse(readFileSync(sharedPath, 'utf8')) as SharedVectors
    for (const [sigma, delta, epsilon] of shared.eps_for_sigma_delta_sens1) expectEpsilon(1 / sigma, delta, epsilon)
    for (const [epsilon, delta, sigma] of shared.sigma_for_eps_delta_sens1) expectEpsilon(1 / sigma, delta, epsilon)
    for (const [sigma, releases, delta, epsilon] of shared.compose_k) expectEpsilon(Math.sqrt(releases / sigma ** 2), delta, epsilon)
  })

  it('has no epsilon for no release, none below zero, and an infinite one without noise', () => {
    expect(epsilonOf(0, 1e-5)).toBe(0)
    expect(epsilonOf(1e-6, 1e-5)).toBe(0)
    expect(epsilonOf(Infinity, 1e-5)).toBe(Infinity)
    expect(muSquaredOfRow(0, 64)).toBe(Infinity)
    expect(() => epsilonOf(1, 0)).toThrow(RangeError)
    expect(() => epsilonOf(NaN, 1e-5)).toThrow(RangeError)
  })

  it('is never flattering: the epsilon holds at its delta, from hardly any mu to enormous ones', () => {
    for (const mu of [1e-3, 0.1, 1, 5, 37, 256, 1e4, 1e6]) {
      for (const delta of [1e-3, 1e-5, 1e-9]) {
        const epsilon = epsilonOf(mu, delta)
        expect(Number.isFinite(epsilon)).toBe(true)
        expect(logDelta(mu, epsilon)).toBeLessThanOrEqual(Math.log(delta))
      }
    }
  })

  it('counts a row by the noise on each of its coordinates: two clips over noise · clip / sqrt(hidden)', () => {
    expect(Math.sqrt(muSquaredOfRow(0.5, 4096))).toBeCloseTo(256, 10)
  })
})
