import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { modelDirectory } from '../../../../src/cli/demo/federation.ts'
import type { TokenConstraint } from '../../../../src/model/generation/token-constraint.ts'
import { SeededRandom } from '../../../../src/model/random.ts'
import { loadTokenizer } from '../../../../src/model/text/load.ts'
import type { JsonSchema } from '../../../../src/model/text/structured-output/json-schema.ts'
import type { OutputFormat } from '../../../../src/model/text/structured-output/output-format.ts'
import { GrammarThread } from '../../../../src/model/text/threads/grammar-thread.ts'

/** Logits of the demo's model. */
const { vocab_size: SIZE } = JSON.parse(await readFile(join(modelDirectory, 'config.json'), 'utf8')) as { vocab_size: number }
const thread = new GrammarThread({ dir: modelDirectory, size: SIZE })
afterAll(async () => { await thread.close() })
const tokenizer = await loadTokenizer(modelDirectory)

function idsIn (allowed: Int32Array): number[] {
  return Array.from({ length: SIZE }, (_, id) => id).filter((id) => (allowed[id >>> 5]! >>> (id & 31)) & 1)
}

/** Writes a text of tokens that are drawn among the allowed ones; an end is taken where it may come, from the 40th token on. */
async function written (constraint: TokenConstraint, seed: number, maxTokens = 400): Promise<string | undefined> {
  const random = new SeededRandom(String(seed))
  const ids: number[] = []
  while (ids.length < maxTokens) {
    const allowed = idsIn(await constraint.allowed())
    const end = allowed.find((id) => tokenizer.isStop(id))
    const id = end !== undefined && (ids.length >= 40 || allowed.length === 1)
      ? end
      : allowed.filter((id) => id !== end)[random.nextUint32() % (allowed.length - (end === undefined ? 0 : 1))]!
    if (id === end) return tokenizer.decode(ids)
    ids.push(id)
    constraint.accept(id)
  }
  return undefined
}

/** Returns whether a text may come, whole. */
async function accepts (format: OutputFormat, text: string): Promise<boolean> {
  const constraint = await thread.open(format)
  try {
    for (const id of tokenizer.encode(text, { addSpecialTokens: false })) {
      if (!idsIn(await constraint.allowed()).includes(id)) return false
      constraint.accept(id)
    }
    return idsIn(await constraint.allowed()).some((id) => tokenizer.isStop(id))
  } finally {
    constraint.close()
  }
}

const schemas: fc.Arbitrary<JsonSchema> = fc.letrec<{ schema: JsonSchema }>((tie) => ({
  schema: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constantFrom<JsonSchema>({ type: 'boolean' }, { type: 'null' }, { type: ['boolean', 'null'] }, { const: 'é\t"' }, { enum: ['x', 2, null] }),
    fc.tuple(fc.integer({ min: -50, max: 50 }), fc.nat(70)).map(([minimum, more]) => ({ type: 'integer', minimum, maximum: minimum + more })),
    fc.tuple(fc.nat(3), fc.nat(3)).map(([minLength, more]) => ({ type: 'string', minLength, maxLength: minLength + more })),
    fc.constant({ type: 'string' }),
    fc.tuple(tie('schema'), fc.nat(2), fc.nat(2)).map(([items, minItems, more]) => ({ type: 'array', items, minItems, maxItems: minItems + more })),
    fc.array(tie('schema'), { minLength: 1, maxLength: 2 }).map((prefixItems) => ({ type: 'array', prefixItems, items: false })),
    fc.array(tie('schema'), { minLength: 1, maxLength: 3 }).map((anyOf) => ({ anyOf })),
    fc.tuple(fc.dictionary(fc.constantFrom('a', 'b', 'c'), tie('schema')), fc.boolean()).map(([properties, required]) =>
      ({ type: 'object', properties, ...(required ? { required: Object.keys(properties) } : {}) }))
  )
})).schema

describe('texts that keep to a form', { timeout: 60_000 }, () => {
  it('what ends is an instance of its schema, whatever tokens are chosen', async () => {
    let ended = 0
    await fc.assert(fc.asyncProperty(schemas, fc.nat(), async (schema, seed) => {
      const constraint = await thread.open({ kind: 'json', schema })
      const text = await written(constraint, seed).finally(() => { constraint.close() })
      if (text === undefined) return
      ended++
      // JSON Schema counts characters, and Zod UTF-16 units: a character of two units stands as one of one.
      const value: unknown = JSON.parse(text, (_, part: unknown) => typeof part === 'string' ? part.replace(/[\u{10000}-\u{10ffff}]/gu, '\u00e9') : part)
      expect(() => z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]).parse(value), text).not.toThrow()
    }), { numRuns: 30 })
    expect(ended).toBeGreaterThan(15)
  })

  it('what is JSON of the schema may come, with characters of several tokens', async () => {
    const schema = { type: 'object', properties: { name: { type: 'string' }, age: { type: 'number' } }, required: ['name'] }
    expect(await accepts({ kind: 'json', schema }, '{"name": "né 😀", "age": -1.5e3}')).toBe(true)
    expect(await accepts({ kind: 'json', schema }, '{"age": 1}')).toBe(false)
    expect(await accepts({ kind: 'json', schema: { type: 'object' } }, '{"x": [{"y": null}]}')).toBe(true)
  })

  it('calls: free text and any arguments where the model may call; a call alone where it has to', async () => {
    const tools = [{ name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } }, { name: 'time' }]
    const call = (name: string, given: string): string => `<tool_call>\n{"name": "${name}", "arguments": ${given}}\n</tool_call>`
    const auto = { kind: 'calls', choice: 'auto', tools } as const
    const strict = { ...auto, tools: tools.map((tool) => ({ ...tool, strict: true })) }
    const required = { ...auto, choice: 'required' } as const
    const named = { ...auto, choice: { name: 'time' } }
    const texts = ['Well.', call('weather', '{"city": "Rome"}'), call('weather', '{"town": 1}'), call('time', '{}'), call('other', '{}')]
    const accepted = async (format: OutputFormat): Promise<boolean[]> => {
      const found: boolean[] = []
      for (const text of texts) found.push(await accepts(format, text))
      return found
    }
    expect(await accepted(auto)).toEqual([true, true, true, true, false])
    expect(await accepted(strict)).toEqual([true, true, false, true, false])
    expect(await accepted(required)).toEqual([false, true, false, true, false])
    expect(await accepted(named)).toEqual([false, false, false, true, false])
    await expect(thread.open({ ...auto, choice: { name: 'none' } })).rejects.toThrow('there is no tool "none" to call')
  })

  it('a form at which the library fails is refused with its reason, and takes along no other text', async () => {
    const other = await thread.open({ kind: 'json', schema: { const: 'abc' } })
    other.accept(idsIn(await other.allowed())[0]!)
    await expect(thread.open({ kind: 'json', schema: { $ref: '#/$defs/none' } })).rejects.toMatchObject({
      code: 'E_OUTPUT_FORMAT', message: expect.stringContaining('none') as string
    })
    expect(await written(other, 1)).toBe('abc"')
    other.close()
  })

  it('a vocabulary that lacks what a form needs is named, and a closed thread begins no text', async () => {
    const small = new GrammarThread({ dir: modelDirectory, size: 20 })
    const text = await small.open({ kind: 'json', schema: { type: 'object' } })
    await expect(text.allowed()).rejects.toThrow('no token of the vocabulary')
    await small.close()
    await expect(small.open({ kind: 'json', schema: {} })).rejects.toThrow('the client is stopping')
  })
})
