import { describe, expect, it } from 'vitest'
import { BadMessageError } from '../../../src/protocols/wire/errors.ts'
import { checkArithmetic } from '../../../src/roles/middle/arithmetic.ts'

describe('what a server says that it computes with', () => {
  it('is read where its words are known', () => {
    expect(checkArithmetic({ weights: 'int8', device: 'cuda', compute: 'fp16' })).toEqual({ weights: 'int8', device: 'cuda', compute: 'fp16' })
  })

  it.each([{ weights: '' }, { weights: 'int3' }, { device: 'gpu' }, { compute: 'fp8' }, { compute: 'constructor' }])('is refused with %j', (wrong) => {
    expect(() => checkArithmetic({ weights: 'fp16', device: 'cpu', compute: 'fp32', ...wrong })).toThrow(BadMessageError)
  })
})
