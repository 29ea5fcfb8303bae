import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { z } from 'zod'
import { checkEvent, EventSchemaError, isResult, parseParameters, readEvent } from '../../src/api/check.ts'
import type { OperationSchema } from '../../src/api/operation.ts'
import { operations, schemaOf, type OperationName } from '../../src/api/operations.ts'
import { MidspanError, UsageError } from '../../src/errors.ts'

const names = Object.keys(operations) as OperationName[]
const done = {
  type: 'done', text: 'a', ids: [1], reason: 'length', promptTokens: 1, tokens: 1, prefillSeconds: 1, decodeSeconds: 1, tokensPerSecond: 1,
  roundTrips: 1, releasedStates: 1, reusedTokens: 0, draftedTokens: 0, acceptedTokens: 0,
  sentBytes: 1, receivedBytes: 1, route: [], networkShare: 0
} as const

describe('the schemas of operations', () => {
  it.each(names)('describe every event and field of %s for people', (name) => {
    expect(operations[name].about).not.toBe('')
    const { progress }: OperationSchema = operations[name]
    for (const [type, schema] of Object.entries(progress)) expect((schema.shape.type as z.ZodLiteral).value).toBe(type)
  })

  it('know no operation that is only a property of objects', () => {
    expect(schemaOf('toString')).toBeUndefined()
    expect(schemaOf('__proto__')).toBeUndefined()
  })
})

describe('parameters', () => {
  it('are refused with the path of the field', () => {
    expect(() => parseParameters('generate', { messages: [{ role: 'user', content: 1 }] })).toThrow(/^generate: messages\.0\.content: /)
  })

  it('are refused where a field is unknown, also within', () => {
    expect(() => parseParameters('generate', { messages: [{ role: 'user', content: '', nickname: 'x' }] }))
      .toThrow('generate: messages.0.nickname: is not known')
  })

  it('end in parameters or in a UsageError, whatever comes', () => {
    fc.assert(fc.property(fc.constantFrom(...names), fc.jsonValue(), (name, given) => {
      try {
        expect(parseParameters(name, given)).toBeTypeOf('object')
      } catch (error) {
        expect(error).toBeInstanceOf(UsageError)
      }
    }))
  })
})

describe('events that leave a daemon', () => {
  it('pass where the schema knows them', () => {
    expect(() => { checkEvent('generate', done) }).not.toThrow()
    expect(() => { checkEvent('peers', { peers: [] }) }).not.toThrow()
  })

  it('do not pass with a field that the schema does not know, also within lists', () => {
    expect(() => { checkEvent('generate', { ...done, more: 1 } as never) }).toThrow('the field more is unknown')
    const skippedLines = [{ line: 1, reason: 'x', text: 'secret' }]
    expect(() => {
      checkEvent('evaluate', { type: 'start', records: 1, recordsRead: 2, skipped: 1, skippedLines, noticed: 0, notices: [] })
    }).toThrow('the field skippedLines.0.text is unknown')
  })

  it('do not pass with a number that JSON cannot say', () => {
    expect(() => { checkEvent('generate', { ...done, tokensPerSecond: Infinity }) }).toThrow(EventSchemaError)
  })

  it('may lack what is optional, also as undefined', () => {
    const event = { type: 'done', format: 'peft', round: 1, parameters: 1, directory: 'x', tensors: 1, changed: undefined } as const
    expect(() => { checkEvent('export', event) }).not.toThrow()
  })
})

describe('events that come from a daemon', () => {
  it('are skipped where their type is of a later release', () => {
    expect(readEvent('generate', { type: 'news', more: 1 })).toBeUndefined()
  })

  it('lose fields of a later release', () => {
    expect(readEvent('generate', { type: 'text', text: 'a', logprob: -1 })).toEqual({ type: 'text', text: 'a' })
  })

  it('are refused where a known field is missing', () => {
    expect(() => readEvent('generate', { type: 'text' })).toThrow(expect.objectContaining({ code: 'E_DAEMON_VERSION' }))
  })

  it('end in an event, nothing or a typed error, whatever comes', () => {
    fc.assert(fc.property(fc.constantFrom(...names), fc.jsonValue(), (name, value) => {
      try {
        readEvent(name, value)
      } catch (error) {
        expect(error).toBeInstanceOf(MidspanError)
      }
    }))
  })

  it('are told from the result', () => {
    expect(isResult('generate', done)).toBe(true)
    expect(isResult('generate', { type: 'text', text: 'a' })).toBe(false)
    expect(isResult('status', {})).toBe(true)
  })
})
