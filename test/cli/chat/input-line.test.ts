import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { CHAT_COMMANDS, readInputLine } from '../../../src/cli/chat/input-line.ts'

describe('a line of a chat', () => {
  it.each([
    ['', { kind: 'nothing' }],
    ['  \t', { kind: 'nothing' }],
    [' Hello, you ', { kind: 'question', text: 'Hello, you' }],
    ['//etc is a path', { kind: 'question', text: '/etc is a path' }],
    ['/reset', { kind: 'command', name: 'reset', argument: '' }],
    ['/system Be  brief ', { kind: 'command', name: 'system', argument: 'Be  brief' }],
    ['/rest', { kind: 'unknown', name: 'rest' }],
    ['/', { kind: 'unknown', name: '' }],
    ['/constructor', { kind: 'unknown', name: 'constructor' }]
  ])('%j is read', (line, read) => {
    expect(readInputLine(line)).toEqual(read)
  })

  it('is a question wherever it does not begin with /', () => {
    fc.assert(fc.property(fc.string({ minLength: 1 }).filter((text) => text.trim() !== '' && !text.trim().startsWith('/')), (text) => {
      expect(readInputLine(text)).toEqual({ kind: 'question', text: text.trim() })
    }))
  })

  it('may be each command', () => {
    for (const name of Object.keys(CHAT_COMMANDS)) expect(readInputLine(`/${name} x`)).toEqual({ kind: 'command', name, argument: 'x' })
  })
})
