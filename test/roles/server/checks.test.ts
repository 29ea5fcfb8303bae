import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { MidspanError } from '../../../src/errors.ts'
import type { Charter } from '../../../src/protocols/charter/schema.ts'
import { checkExcept, checkGradientNorm, checkPass, checkServed } from '../../../src/roles/server/checks.ts'
import type { Span } from '../../../src/span.ts'

const charter = { model: { blocks: 4 }, training: { gradientAccumulationSteps: 3 } } as Charter
const uint32 = fc.oneof(fc.nat(6), fc.integer({ min: 0, max: 2 ** 32 - 1 }))

/** Whether a check lets its value pass; any other error than E_BAD_MESSAGE fails the test. */
function accepts (check: () => unknown): boolean {
  try {
    check()
    return true
  } catch (error) {
    expect(error).toMatchObject({ code: 'E_BAD_MESSAGE' })
    return false
  }
}

describe('numbers in the messages of a client', () => {
  it('take only passes that a round has', () => {
    fc.assert(fc.property(uint32, (pass) => {
      expect(accepts(() => { checkPass(charter, pass) })).toBe(pass < 3)
    }))
  })

  it('leave out only blocks that the model has', () => {
    fc.assert(fc.property(uint32, uint32, (first, end) => {
      expect(accepts(() => checkExcept(charter, { first, end }))).toBe(first <= end && end <= 4)
    }))
    expect(checkExcept(charter, undefined)).toBeUndefined()
  })

  it('ask only for blocks that the server has, and are told when those are another server\'s', () => {
    const code = (span: Span): string | undefined => {
      try {
        return void checkServed(charter, { first: 1, end: 3 }, span)
      } catch (error) {
        return (error as MidspanError).code
      }
    }
    fc.assert(fc.property(uint32, uint32, (first, end) => {
      const has = (served: Span): boolean => first >= served.first && first < end && end <= served.end
      expect(code({ first, end }))
        .toBe(has({ first: 1, end: 3 }) ? undefined : has({ first: 0, end: 4 }) ? 'E_SPAN_NOT_SERVED' : 'E_BAD_MESSAGE')
    }))
  })

  it('tell norms that are finite, not negative and not absurd', () => {
    fc.assert(fc.property(fc.double(), (norm) => {
      expect(accepts(() => checkGradientNorm(norm))).toBe(norm >= 0 && norm <= 1e14)
    }))
    expect(accepts(() => checkGradientNorm(undefined))).toBe(false)
  })
})
