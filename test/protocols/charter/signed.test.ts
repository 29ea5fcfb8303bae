import { createHash } from 'node:crypto'
import canonicalize from 'canonicalize'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MidspanError } from '../../../src/errors.ts'
import { CHARTER_SIGNATURE_DOMAIN } from '../../../src/protocols/charter/constants.ts'
import {
  type Charter,
  CharterInvalidError,
  CharterSignatureError,
  CharterVersionError,
  signCharter,
  verifyCharter
} from '../../../src/protocols/charter/index.ts'
import { charterOf, keyOf } from './fixture.ts'

const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))
const decode = (bytes: Uint8Array) => JSON.parse(new TextDecoder().decode(bytes)) as { charter: Record<string, unknown>, signature: string }

async function fieldRefused (changes: Record<string, unknown>): Promise<string> {
  const document = decode((await signCharter(await charterOf(1), await keyOf(1))).bytes)
  try {
    await verifyCharter(encode({ ...document, charter: { ...document.charter, ...changes } }))
  } catch (error) {
    if (error instanceof CharterInvalidError) return error.field
    throw error
  }
  throw new Error('it was accepted')
}

describe('a signed charter', () => {
  it('comes back from its bytes with the same id', async () => {
    const signed = await signCharter(await charterOf(1), await keyOf(1))
    const read = await verifyCharter(signed.bytes)
    expect(read.charter).toEqual(await charterOf(1))
    expect(read.id).toBe(signed.id)
    expect(read.id).toMatch(/^[0-9a-f]{64}$/)
  })

  it('has an id that does not depend on the order of its keys', async () => {
    const document = decode((await signCharter(await charterOf(1), await keyOf(1))).bytes)
    const reversed = { ...document, charter: Object.fromEntries(Object.entries(document.charter).reverse()) }
    expect((await verifyCharter(encode(reversed))).id).toBe((await verifyCharter(encode(document))).id)
  })

  it('is refused when anything in it changed', async () => {
    const document = decode((await signCharter(await charterOf(1), await keyOf(1))).bytes)
    await expect(verifyCharter(encode({ ...document, charter: { ...document.charter, wire: 'fp32' } }))).rejects.toThrow(
      CharterSignatureError
    )
  })

  it('is refused when another key signed it', async () => {
    const mine = decode((await signCharter(await charterOf(1), await keyOf(1))).bytes)
    const other = decode((await signCharter(await charterOf(2), await keyOf(2))).bytes)
    await expect(verifyCharter(encode({ ...mine, signature: other.signature }))).rejects.toThrow(CharterSignatureError)
  })

  it('cannot be signed by a key that is not its founder\'s', async () => {
    await expect(signCharter(await charterOf(1), await keyOf(2))).rejects.toMatchObject({ code: 'E_CHARTER_INVALID', field: 'founder' })
  })

  it('is refused by its version before anything else', async () => {
    const document = decode((await signCharter(await charterOf(1), await keyOf(1))).bytes)
    await expect(verifyCharter(encode({ ...document, charter: { version: 2, unheardOf: true } }))).rejects.toThrow(CharterVersionError)
  })

  it('is refused with the name of a key it should not have', async () => {
    expect(await fieldRefused({ surprise: 1 })).toBe('surprise')
  })

  it.each([
    ['wire', { wire: 'fp8' }],
    ['adapters.r', { adapters: { r: 0, alpha: 1, dropout: 0, targets: ['q_proj'], rslora: false, seed: '00' } }],
    ['partitions', { partitions: { inputBlocks: { min: 1, max: 3 }, outputBlocks: { min: 1, max: 2 } } }],
    ['privacy.clip', { privacy: { noise: 1, gradientNoise: 0, clipAlways: false, clip: null } }],
    ['ends', { strategy: 'sequential', ends: { mode: 'average', every: 2 } }],
    ['aggregation.minContributors', { aggregation: { mode: 'secure', minContributors: 2 } }],
    ['aggregation', { aggregation: { mode: 'secure', minContributors: 3 } }],
    ['privacy.clip.hidden.2', {
      privacy: { noise: 1, gradientNoise: 0, clipAlways: false, clip: { hidden: { 1: 1 }, gradient: { 3: 1, 4: 1 } } }
    }]
  ])('is refused with the field %s named', async (field, changes) => {
    expect(await fieldRefused(changes)).toBe(field)
  })

  it('never names a file outside the directory it goes to', async () => {
    const { model } = await charterOf(1)
    expect(await fieldRefused({ model: { ...model, files: { '../../.bashrc': { bytes: 1, sha256: 'ab'.repeat(32) } } } })).toMatch(
      /^model\.files/
    )
  })

  it('is refused when it nests deeper than a configuration does', async () => {
    const { model } = await charterOf(1)
    const text = JSON.stringify({ charter: { ...await charterOf(1), model: { ...model, config: {} } }, signature: 'A'.repeat(86) })
    const nested = text.replace('"config":{}', `"config":{"x":${'['.repeat(10_000)}1${']'.repeat(10_000)}}`)
    await expect(verifyCharter(new TextEncoder().encode(nested))).rejects.toThrow(/nests more than/)
  })

  it('answers any bytes with a typed error', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.uint8Array({ maxLength: 200 }),
          fc.json().map((text) => new TextEncoder().encode(text))
        ),
        async (bytes) => {
          await expect(verifyCharter(bytes)).rejects.toBeInstanceOf(MidspanError)
        }
      )
    )
  })

  it('answers a changed charter with a typed error wherever the change is', async () => {
    const { bytes } = await signCharter(await charterOf(1), await keyOf(1))
    await fc.assert(fc.asyncProperty(fc.nat(bytes.byteLength - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const changed = Uint8Array.from(bytes)
      changed[at] = (changed[at] ?? 0) ^ change
      await expect(verifyCharter(changed)).rejects.toBeInstanceOf(MidspanError)
    }), { numRuns: 200 })
  })
})

describe('how charters evolve', () => {
  /** A charter as a release before the fields existed signed it. */
  async function founded (change: (charter: Charter) => unknown): Promise<Uint8Array> {
    const charter = change(await charterOf(1))
    const canonical = canonicalize(charter) as string
    const signature = await (await keyOf(1)).sign(new TextEncoder().encode(CHARTER_SIGNATURE_DOMAIN + canonical))
    return encode({ charter, signature: Buffer.from(signature).toString('base64url') })
  }

  it('a charter from before gradient accumulation, clipping scopes, secure sums and trained weights means what it meant', async () => {
    const bytes = await founded(({ weights: _weights, aggregation: _aggregation, training, ...charter }) => {
      const { gradientNormScope: _scope, gradientAccumulationSteps: _steps, ...before } = training
      return { ...charter, training: before }
    })
    const { charter, id } = await verifyCharter(bytes)
    expect(charter).toEqual(await charterOf(1))
    expect(id).toBe(createHash('sha256').update(canonicalize(decode(bytes).charter) as string).digest('hex'))
  })

  it('a field of a newer release is refused by name, with what to do', async () => {
    const bytes = await founded((charter) => ({ ...charter, training: { ...charter.training, lookahead: 5 } }))
    await expect(verifyCharter(bytes)).rejects.toMatchObject({
      code: 'E_CHARTER_INVALID',
      field: 'training.lookahead',
      message: expect.stringContaining('a newer release') as string,
      next: expect.stringContaining('install the release') as string
    })
  })

  it('a deadline that no timer can wait for is refused', async () => {
    const bytes = await founded((charter) => ({ ...charter, training: { ...charter.training, roundDeadlineMs: 30 * 24 * 3_600_000 } }))
    await expect(verifyCharter(bytes)).rejects.toMatchObject({ field: 'training.roundDeadlineMs' })
  })
})
