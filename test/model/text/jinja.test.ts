import { describe, expect, it } from 'vitest'
import { ChatTemplate } from '../../../src/model/text/chat-template.ts'
import { readGolden } from '../../helpers/golden.ts'

const golden = readGolden<{
  readonly cases: ReadonlyArray<{ readonly template: string, readonly text: string }>
  readonly refused: readonly string[]
}>('jinja.json')

const question = [{ role: 'user', content: 'a' }]

describe('issue 9, A3: a template', () => {
  it.each(golden.cases.map(({ template, text }) => [template, text] as const))('prints what Jinja prints: %s', (template, text) => {
    expect(new ChatTemplate('it', template).render([], {}, false)).toBe(text)
  })

  it.each(golden.refused)('that is none of Jinja, or read otherwise, is refused by name: %s', (template) => {
    expect(() => new ChatTemplate('it', template).render([], {}, false)).toThrow(expect.objectContaining({ code: 'E_TOKENIZER' }) as Error)
  })
})

describe('issue 9, A32: a founder cannot hang a client with a template', () => {
  it.each([
    '{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}',
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    '{{ range(10 ** 9) }}',
    "{{ 'a' * 10 ** 9 }}",
    '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}'
  ])('of loops or growing texts: %s', (template) => {
    expect(() => new ChatTemplate('it', template).render(question, {}, false)).toThrow('refuses these messages')
  })
})
