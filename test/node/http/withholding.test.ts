import { expect, it } from 'vitest'
import type { EventOf, GivenParameters, OperationName } from '../../../src/api/operations.ts'
import { withholdingBackend, type Backend } from '../../../src/node/http/backend.ts'

it('words are withheld from every text that is asked for, and from nothing else', () => {
  const asked: unknown[] = []
  const backend: Backend = {
    stream: <Name extends OperationName>(operation: Name, parameters: GivenParameters<Name>): AsyncIterable<EventOf<Name>> => {
      asked.push([operation, parameters])
      return (async function * () {})()
    }
  }
  const signal = new AbortController().signal
  const withholding = withholdingBackend(backend, 'capitals')
  withholding.stream('generate', { prompt: 'a' }, signal)
  withholding.stream('status', {}, signal)
  expect(asked).toEqual([['generate', { prompt: 'a', withhold: 'capitals' }], ['status', {}]])
  expect(withholdingBackend(backend, undefined)).toBe(backend)
})
