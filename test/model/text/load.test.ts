import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { encodeRecord } from '../../../src/model/text/dataset.ts'
import { TokenizerError } from '../../../src/model/text/errors.ts'
import { loadTokenizer } from '../../../src/model/text/load.ts'
import type { Tokenizer } from '../../../src/model/text/tokenizer.ts'
import { readGolden } from '../../helpers/golden.ts'

interface ChatGlmGolden {
  readonly pieces: number
  readonly cases: ReadonlyArray<{ readonly text: string, readonly ids: number[], readonly decoded: string }>
  readonly prompts: ReadonlyArray<
    {
      readonly history: ReadonlyArray<readonly [string, string]>,
      readonly question: string,
      readonly chatglm: string,
      readonly chatglm2: string
    }
  >
}

const golden = readGolden<ChatGlmGolden>('sentencepiece/chatglm.json')

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'midspan-load-'))
})
afterAll(async () => {
  await rm(dir, { recursive: true })
})

/** The tokenizer of a directory with a SentencePiece model of test/reference and these JSON files. */
async function load (
  name: string,
  model: { readonly from: string, readonly as: string } | undefined,
  files: Readonly<Record<string, unknown>>
): Promise<Tokenizer> {
  const path = join(dir, name)
  await mkdir(path)
  if (model !== undefined) await cp(new URL(`../../reference/sentencepiece/${model.from}.model`, import.meta.url), join(path, model.as))
  for (const [file, content] of Object.entries(files))
    await writeFile(join(path, file), typeof content === 'string' ? content : JSON.stringify(content))
  return await loadTokenizer(path)
}

const user = (content: string) => ({ role: 'user', content })
const assistant = (content: string) => ({ role: 'assistant', content })

describe('a directory with a tokenizer.model alone', () => {
  const llama = { from: 'llama', as: 'tokenizer.model' }

  it('is read as LLaMA reads it: BOS first, control pieces recognised in the text, nothing of them in the decoded text', async () => {
    const tokenizer = await load('llama', llama, { 'config.json': { model_type: 'llama', eos_token_id: 2 } })
    const bridge = tokenizer.encode('the bridge', { addSpecialTokens: false })
    expect(tokenizer.encode('the bridge')).toEqual([1, ...bridge])
    expect(tokenizer.encode('<s>the bridge</s>the bridge', { addSpecialTokens: false })).toEqual([1, ...bridge, 2, ...bridge])
    expect(tokenizer.decode([1, ...bridge, 2])).toBe('the bridge')
    expect(tokenizer.decode([1, ...bridge, 2], { skipSpecialTokens: false })).toBe('<s> the bridge</s>')
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.eosIds]).toEqual([1, 2, [2]])
  })

  it('begins no word after a special token where the configuration is not legacy', async () => {
    const tokenizer = await load('llama-new', llama, {
      'config.json': {},
      'tokenizer_config.json': {
        legacy: false,
        add_bos_token: false,
        add_eos_token: true,
        added_tokens_decoder: { 600: { content: '<pad>', special: true } }
      }
    })
    // As transformers' LlamaTokenizer encodes it.
    expect(tokenizer.encode('<s>the bridge</s> old', { addSpecialTokens: false })).toEqual([1, 426, 430, 421, 338, 2, 388])
    expect(tokenizer.encode('the bridge')).toEqual([287, 338, 2])
    expect(tokenizer.encode('<pad>')).toEqual([600, 2])
    expect(tokenizer.decode([287, 600, 338])).toBe('the bridge')
  })

  it('writes chats with its own special tokens', async () => {
    const tokenizer = await load('llama-chat', llama, {
      'config.json': {},
      'chat_template.jinja': '{{ bos_token }}{% for m in messages %}[{{ m.content }}]{{ eos_token }}{% endfor %}'
    })
    expect(tokenizer.applyChatTemplate([user('a')])).toBe('<s>[a]</s>')
    expect(tokenizer.encodeChat([user('a')])).toEqual(tokenizer.encode('[a]</s>'))
  })
})

describe('the original ChatGLM-6B', () => {
  const ice = { from: 'ice_text', as: 'ice_text.model' }
  const config = { model_type: 'chatglm', vocab_size: 20_000 + golden.pieces + 184 }

  it('encodes and decodes as its published code does in the first revision: special pieces, blanks and bytes added, ids after the image tokens', async () => {
    const tokenizer = await load('chatglm-image', ice, { 'config.json': config })
    for (const { text, ids, decoded } of golden.cases) {
      expect([text, tokenizer.encode(text)]).toEqual([text, ids])
      expect(tokenizer.decode(ids)).toBe(decoded)
    }
  })

  it('has no image tokens in the second revision, whose configuration says so', async () => {
    const tokenizer = await load('chatglm', ice, {
      'config.json': { ...config, vocab_size: golden.pieces + 184 },
      'tokenizer_config.json': { num_image_tokens: 0, eos_token: '<eop>' }
    })
    for (const { text, ids } of golden.cases) expect(tokenizer.encode(text)).toEqual(ids.map((id) => id - 20_000))
  })

  it('streams line ends and blanks as they are', async () => {
    const tokenizer = await load('chatglm-stream', ice, { 'config.json': config })
    const ids = tokenizer.encode('the\n\n  river\tover   桥 <x', { addSpecialTokens: false })
    const stream = tokenizer.createDecodeStream()
    expect(ids.map((id) => stream.push(id)).join('') + stream.flush()).toBe('the\n\n  river\tover   桥 <x')
  })

  it('asks as its chat() does, and learns one answer to a closed context', async () => {
    const tokenizer = await load('chatglm-chat', ice, { 'config.json': config })
    for (const { history, question, chatglm } of golden.prompts) {
      const messages = [...history.flatMap(([asked, answered]) => [user(asked), assistant(answered)]), user(question)]
      expect(tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true })).toBe(chatglm)
      const context = tokenizer.encode(chatglm)
      const answer = tokenizer.encode('the bridge', { addSpecialTokens: false })
      const example = encodeRecord({ kind: 'chat', messages: [...messages, assistant('the bridge')], learnFrom: 0 }, tokenizer, 'all')
      expect(example).toEqual({
        ids: Int32Array.from([...context, ...answer, tokenizer.eosId!]),
        lossMask: Uint8Array.from([...context.map(() => 0), ...answer.map(() => 1), 1])
      })
    }
  })
})

describe('ChatGLM2 and 3', () => {
  const spm = { from: 'llama', as: 'tokenizer.model' }
  const config = { model_type: 'chatglm', padded_vocab_size: 576, eos_token_id: 2 }
  const first = 500 // pieces of the model

  it('put [gMASK] and sop before a text, after the vocabulary of the model', async () => {
    const tokenizer = await load('chatglm2', spm, { 'config.json': { ...config, _name_or_path: 'THUDM/chatglm2-6b' } })
    const text = tokenizer.encode('the bridge', { addSpecialTokens: false })
    expect(tokenizer.encode('the bridge')).toEqual([first + 1, first + 3, ...text])
    expect(tokenizer.decode(tokenizer.encode('the bridge'))).toBe('the bridge')
    expect(tokenizer.eosIds).toEqual([2])
    expect(tokenizer.encode('<|user|>')).not.toContain(first + 6)
  })

  it('ask as ChatGLM2 does', async () => {
    const tokenizer = await load('chatglm2-chat', spm, { 'config.json': { ...config, _name_or_path: 'THUDM/chatglm2-6b' } })
    for (const { history, question, chatglm2 } of golden.prompts) {
      const messages = [...history.flatMap(([asked, answered]) => [user(asked), assistant(answered)]), user(question)]
      expect(tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true })).toBe(chatglm2)
      expect(tokenizer.encodeChat(messages, { addGenerationPrompt: true })).toEqual(tokenizer.encode(chatglm2))
    }
    expect(tokenizer.encodeChat([user('a'), assistant('b')]).at(-1)).toBe(2)
    expect(() => tokenizer.applyChatTemplate([assistant('a')])).toThrow('the built-in chat template of ChatGLM2 refuses')
  })

  it('begin each turn of ChatGLM3 with the token of its role, each text of its own, and stop where another begins', async () => {
    const tokenizer = await load('chatglm3', spm, { 'config.json': config })
    const plain = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false })
    const [system, asks, answers, observation] = [5, 6, 7, 8].map((i) => first + i)
    // build_chat_input of the published code: [gMASK] sop, then for each turn its role, the encoded line end, and the encoded text.
    const turn = (role: number | undefined, text: string): Array<number | undefined> => [role, ...plain('\n'), ...plain(text)]
    expect(tokenizer.encodeChat([{ role: 'system', content: 'be brief' }, user('the bridge?')], { addGenerationPrompt: true }))
      .toEqual([first + 1, first + 3, ...turn(system, 'be brief'), ...turn(asks, 'the bridge?'), answers])
    expect(tokenizer.eosIds).toEqual([2, asks, observation])
  })

  it('read sop as a token only after [gMASK]: it is a part of words', async () => {
    const tokenizer = await load('chatglm3-sop', spm, { 'config.json': config })
    expect(tokenizer.encode('sop', { addSpecialTokens: false })).not.toContain(first + 3)
    expect(tokenizer.encode('[gMASK]sop', { addSpecialTokens: false })).toEqual([first + 1, first + 3])
  })
})

describe('what is missing or broken', () => {
  it.each([
    ['nothing', undefined, {}, 'no tokenizer.json and no tokenizer.model'],
    ['no ice_text.model', undefined, { 'config.json': { model_type: 'chatglm' } }, 'no ice_text.model'],
    ['a broken tokenizer.json', undefined, { 'tokenizer.json': '{' }, 'tokenizer.json is not valid JSON'],
    [
      'a tokenizer.json of no known kind',
      undefined,
      { 'tokenizer.json': { model: { type: 'Nonsense' } } },
      'tokenizer.json cannot be used'
    ],
    ['another kind of tokenizer.model', undefined, { 'tokenizer.model': 'IQ== 0\n' }, 'tokenizer.model is no SentencePiece model'],
    [
      'a model of ChatGLM-6B without its line end',
      { from: 'suffix', as: 'ice_text.model' },
      { 'config.json': { model_type: 'chatglm' } },
      'ice_text.model has no piece'
    ],
    [
      'a broken chat_template.jinja',
      { from: 'llama', as: 'tokenizer.model' },
      { 'chat_template.jinja': '{% if %}' },
      'chat_template.jinja cannot be read'
    ],
    ['chat templates without a default', { from: 'llama', as: 'tokenizer.model' }, {
      'tokenizer_config.json': { chat_template: [{ name: 'tools', template: 'x' }] }
    }, 'no chat_template named default, only ["tools"]']
  ])('is named: %s', async (name, model, files, message) => {
    const failure = load(`broken ${name}`, model, files)
    await expect(failure).rejects.toThrow(message)
    await expect(failure).rejects.toMatchObject({ code: 'E_TOKENIZER' })
  })
})

it("a directory's configurations either make a tokenizer that encodes, or are refused with TokenizerError, whatever they hold", async () => {
  const path = join(dir, 'fuzzed')
  await mkdir(path)
  await cp(new URL('../../reference/sentencepiece/llama.model', import.meta.url), join(path, 'tokenizer.model'))
  const keys = [
    'bos_token',
    'eos_token',
    'pad_token',
    'added_tokens_decoder',
    'add_bos_token',
    'add_eos_token',
    'legacy',
    'chat_template',
    'eos_token_id',
    'model_type',
    'name_or_path',
    '3',
    'content',
    'special',
    'default',
    'template',
    'name'
  ]
  const value =
    fc.letrec<{ any: unknown }>((tie) => ({
      any: fc.oneof(
        { maxDepth: 3 },
        fc.constantFrom('<s>', 'the', 'chatglm', 3, true),
        fc.jsonValue(),
        fc.array(tie('any')),
        fc.dictionary(fc.constantFrom(...keys), tie('any'))
      )
    })).any
  const object = fc.dictionary(fc.constantFrom(...keys), value)
  await fc.assert(
    fc.asyncProperty(object, object, object, async (tokenizerConfig, config, addedTokens) => {
      for (
        const [name, content] of Object.entries({
          'tokenizer_config.json': tokenizerConfig,
          'config.json': config,
          'added_tokens.json': addedTokens
        })
      ) await writeFile(join(path, name), JSON.stringify(content))
      try {
        const tokenizer = await loadTokenizer(path)
        tokenizer.decode(tokenizer.encode('<s>the bridge'))
        if (tokenizer.hasChatTemplate) tokenizer.encodeChat([user('a')])
      } catch (error) {
        expect(error).toBeInstanceOf(TokenizerError)
      }
    }),
    { numRuns: 100 }
  )
})
