import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { readPeftAdapter } from '../../src/model/checkpoint/peft.ts'
import { run } from '../cli/helpers.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { TestPeer } from './helpers.ts'

/** As many tokens as SmolLM2 has: the loss of the 1,500 tokens below takes three runs of the head. */
const VOCABULARY = 49_152

/** A token for each word, so that a text can use all of the vocabulary. */
const TOKENIZER = {
  version: '1.0',
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: { type: 'WhitespaceSplit' },
  post_processor: null,
  decoder: null,
  model: { type: 'WordLevel', vocab: Object.fromEntries(Array.from({ length: VOCABULARY }, (_, id) => [`w${id}`, id])), unk_token: 'w0' }
}

/** A text of words from all over the vocabulary. */
const TEXT = Array.from({ length: 1500 }, (_, i) => `w${3 + i * 7919 % (VOCABULARY - 3)}`).join(' ')

describe('a model with the vocabulary of a real one, by defaults', { timeout: 240_000 }, () => {
  let root: string
  const peers: TestPeer[] = []
  const path = (name: string): string => join(root, name)
  /** Runs a command, which must succeed, and returns the last of its JSON output. */
  const midspan = async <Result>(...args: string[]): Promise<Result> => {
    const { code, out, err } = await run([...args, '--json'])
    expect(code, err).toBe(0)
    return JSON.parse(out.trimEnd().split('\n').at(-1)!) as Result
  }
  const evaluate = async (): Promise<number> =>
    (await midspan<{ loss: number }>('evaluate', '--home', path('client'), '--data', path('text.txt'))).loss

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-vocabulary-'))
    const model = { vocab_size: VOCABULARY, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 3, max_position_embeddings: 4096 }
    await writeTinyModel(path('model'), model)
    await writeFile(path('model/tokenizer.json'), JSON.stringify(TOKENIZER))
    await writeFile(path('text.txt'), TEXT)
    await midspan('init', '--home', path('server'), '--model', path('model'), '--name', 'words', '--admission', 'open')
    peers.push(await TestPeer.start(path('server'), ['/ip4/127.0.0.1/tcp/0']))
    await midspan('join', peers[0]!.daemon.status().addresses[0]!, '--home', path('client'))
    peers.push(await TestPeer.start(path('client')))
  }, 120_000)

  afterAll(async () => {
    for (const peer of peers.reverse()) await peer.stop()
    await rm(root, { recursive: true })
  })

  it('is trained, and learns', async () => {
    const before = await evaluate()
    expect(before).toBeGreaterThan(Math.log(VOCABULARY) - 1)
    const { rounds, loss } = await midspan<{ rounds: number, loss: number }>(
      'train', '--home', path('client'), '--data', path('text.txt'), '--rounds', '1'
    )
    expect(rounds).toBe(1)
    expect(loss).toBeGreaterThan(Math.log(VOCABULARY) - 1)
    expect(await evaluate()).toBeLessThan(before)
  })

  it('generates', async () => {
    const prompt = ['generate', '--home', path('client'), '--prompt', `w1 w${VOCABULARY - 1}`, '--temperature', '0']
    const { tokens, promptTokens } = await midspan<{ tokens: number, promptTokens: number }>(...prompt, '--max-tokens', '5')
    expect([promptTokens, tokens]).toEqual([2, 5])
  })

  it('generates after a prompt that outgrows every first size of caches, runs and tables', async () => {
    const words = TEXT.split(' ')
    const prompt = Array.from({ length: 2100 }, (_, i) => words[i % words.length]!)
    const after = async (given: readonly string[], maxTokens: number): Promise<number[]> => {
      const args = ['generate', '--home', path('client'), '--prompt', given.join(' '), '--temperature', '0']
      return (await midspan<{ ids: number[] }>(...args, '--max-tokens', `${maxTokens}`)).ids
    }
    const ids = await after(prompt, 4)
    expect(ids).toHaveLength(4)
    expect(await after([...prompt, `w${ids[0]}`, `w${ids[1]}`], 2)).toEqual(ids.slice(2))
  })

  it('is exported, as an adapter and merged', async () => {
    await midspan('export', '--home', path('client'), '--out', path('adapter'))
    const { tensors } = await readPeftAdapter(path('adapter'))
    expect(tensors.size).toBe(3 * 4 * 2)
    await midspan('export', '--home', path('server'), '--merged', '--out', path('merged'))
    const merged = await openModelDirectory(path('merged'))
    expect((await merged.read('model.embed_tokens.weight')).shape).toEqual([VOCABULARY, 32])
  })
})
