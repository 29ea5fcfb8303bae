import { existsSync, readFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadTokenizer } from '../../../src/model/text/load.ts'
import type { Tokenizer } from '../../../src/model/text/tokenizer.ts'
import { wordTokenizer } from '../../helpers/word-tokenizer.ts'

const stories = join(process.env.MIDSPAN_TEST_DATA ?? '../shared/data', 'stories260K-hf')

interface Golden {
  text: string
  ids: number[]
  plain: number[]
  decoded: string
  decodedWithSpecial: string
}
const golden = JSON.parse(readFileSync(new URL('../../reference/tokenizer.json', import.meta.url), 'utf8')) as Golden[]

const words = ['<unk>', '<s>', '</s>', 'a', 'b']

describe.skipIf(!existsSync(stories))('the stories260K tokenizer', () => {
  let tokenizer: Tokenizer
  beforeAll(async () => {
    tokenizer = await loadTokenizer(stories)
  })

  it.each(golden.map(({ text, ...rest }) => [JSON.stringify(text), { text, ...rest }] as const))(
    'agrees with the Python library on %s',
    (_, { text, ids, plain, decoded, decodedWithSpecial }) => {
      expect(tokenizer.encode(text)).toEqual(ids)
      expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(plain)
      expect(tokenizer.decode(ids)).toBe(decoded)
      expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(decodedWithSpecial)
    }
  )

  it('knows its special tokens, and every id at which generation stops', () => {
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.eosIds, tokenizer.hasChatTemplate]).toEqual([1, 2, [1, 2], false])
  })

  it('gives back any text through its byte fallback', () => {
    const character = fc.integer({ min: 0, max: 0x10ffff }).map((point) => String.fromCodePoint(point)).filter((character) =>
      character.isWellFormed() && !/[\u2581\ufeff<]/.test(character)
    )
    fc.assert(
      fc.property(fc.array(character, { maxLength: 30 }).map((characters) => characters.join('')), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
      }),
      { numRuns: 40 }
    )
  })

  it('streams exactly the text that the ids decode to, whatever the ids', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(511), { maxLength: 40 }), (ids) => {
        fc.pre(!tokenizer.decode(ids).includes('\ufeff'))
        const stream = tokenizer.createDecodeStream()
        expect(ids.map((id) => stream.push(id)).join('') + stream.flush()).toBe(tokenizer.decode(ids))
      }),
      { numRuns: 300 }
    )
  })

  it('streams no part of a character before it is whole', () => {
    const stream = tokenizer.createDecodeStream()
    const pieces = tokenizer.encode('a 😀€').map((id) => stream.push(id))
    expect(pieces.filter((piece) => piece !== '').join('|')).toMatch(/😀\|€$/)
    expect(pieces.join('')).toBe('a 😀€')
    expect(stream.flush()).toBe('')
  })

  it('continues a prompt with the space that belongs there', () => {
    const [prompt, all] = ['Once upon', 'Once upon a time'].map((text) => tokenizer.encode(text))
    const stream = tokenizer.createDecodeStream(prompt)
    expect(all!.slice(prompt!.length).map((id) => stream.push(id)).join('')).toBe(' a time')
  })

  it('refuses a chat it has no template for', () => {
    expect(() => tokenizer.applyChatTemplate([{ role: 'user', content: 'a' }])).toThrow('no chat template')
  })
})

describe('special tokens', () => {
  it('come from the tokenizer first, and generation stops where generation_config.json says', () => {
    const tokenizer = wordTokenizer(words, { eos_token: { content: '</s>' }, bos_token: '<s>' }, {
      config: { eos_token_id: 4, bos_token_id: 4 },
      generationConfig: { eos_token_id: [2, 3] }
    })
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.eosIds]).toEqual([1, 2, [2, 3]])
  })

  it('come from config.json where nothing else names them, and may be missing', () => {
    const tokenizer = wordTokenizer(words, {}, { config: { eos_token_id: 3 } })
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.eosIds]).toEqual([undefined, 3, [3]])
    expect(wordTokenizer(words).eosIds).toEqual([])
  })
})

describe('a chat template', () => {
  const template = `{%- if messages[0].role == 'tool' -%}{{ raise_exception('no tools') }}{%- endif -%}
{{ bos_token }}{% for m in messages %}
<{{ m.role }}>{{ m.content }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}`

  it('writes a conversation, with the generation prompt only when asked for', () => {
    const tokenizer = wordTokenizer(words, { bos_token: '<s>', eos_token: '</s>', chat_template: template })
    expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }])).toBe(
      '<s><user>a</s>\n<assistant>b</s>\n'
    )
    expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'a' }], { addGenerationPrompt: true })).toBe('<s><user>a</s>\n<assistant>')
  })

  it('may be one of several by name', () => {
    const tokenizer = wordTokenizer(words, { chat_template: [{ name: 'tools', template: 'x' }, { name: 'default', template: 'y' }] })
    expect(tokenizer.applyChatTemplate([])).toBe('y')
  })

  it('can refuse messages, and is refused when broken', () => {
    expect(() => wordTokenizer(words, { chat_template: template }).applyChatTemplate([{ role: 'tool', content: '' }])).toThrow('no tools')
    expect(() => wordTokenizer(words, { chat_template: '{% if %}' })).toThrow('cannot be read')
  })
})

describe('loading a tokenizer', () => {
  let dir: string
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'midspan-tokenizer-'))
  })
  afterAll(async () => {
    await rm(dir, { recursive: true })
  })

  it('names what is missing or broken', async () => {
    await expect(loadTokenizer(dir)).rejects.toMatchObject({
      code: 'E_TOKENIZER',
      message: expect.stringContaining('no tokenizer.json') as string
    })
    await writeFile(join(dir, 'tokenizer.json'), '{')
    await expect(loadTokenizer(dir)).rejects.toThrow('tokenizer.json is not valid JSON')
    await writeFile(join(dir, 'tokenizer.json'), '{"model":{"type":"Nonsense"}}')
    await expect(loadTokenizer(dir)).rejects.toMatchObject({ code: 'E_TOKENIZER' })
    await expect(loadTokenizer(join(dir, 'absent'))).rejects.toMatchObject({ code: 'E_TOKENIZER' })
    await rm(join(dir, 'tokenizer.json'))
    await mkdir(join(dir, 'tokenizer.json'))
    await expect(loadTokenizer(dir)).rejects.toMatchObject({
      code: 'E_TOKENIZER',
      message: expect.stringContaining('tokenizer.json is no file') as string
    })
  })
})
