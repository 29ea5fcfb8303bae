import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import { RemoteCache } from '../../src/roles/middle/remote-stage.ts'
import { bytesOf, tensorRows } from '../../src/tensor.ts'
import { original } from '../helpers/original.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { startFederation, type TestClient, type TestFederation } from './helpers.ts'

type Result = ResultOf<'generate'>
interface Message { readonly role: 'user' | 'assistant', readonly content: string }

const TURNS = ['the river carries a small boat', 'under old stone bridges', 'and past quiet mills', 'where does it go', 'and when']

async function answer (client: TestClient, messages: readonly Message[], parameters: object = {}): Promise<Result> {
  return await client.generate({ messages, maxTokens: 12, ...parameters }) as unknown as Result
}

/** A chat of all turns: the messages with which each turn was asked, and what came of it. */
async function chat (client: TestClient, parameters: object, contents = TURNS): Promise<Array<{ messages: Message[], result: Result }>> {
  const turns: Array<{ messages: Message[], result: Result }> = []
  let messages: Message[] = []
  for (const content of contents) {
    messages = [...messages, { role: 'user', content }]
    const result = await answer(client, messages, parameters)
    turns.push({ messages, result })
    messages = [...messages, { role: 'assistant', content: result.text }]
  }
  return turns
}

describe('a chat', { timeout: 60_000 }, () => {
  let directory: string
  let federation: TestFederation
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'midspan-chat-'))
    const model = join(directory, 'model')
    await writeTinyModel(model, { max_position_embeddings: 512 })
    // What was generated is read as the same tokens again.
    const tokenizer = JSON.parse(await readFile(join(model, 'tokenizer.json'), 'utf8')) as object
    await writeFile(join(model, 'tokenizer.json'), JSON.stringify({ ...tokenizer, decoder: { type: 'Fuse' } }))
    await writeFile(join(model, 'tokenizer_config.json'), JSON.stringify({
      chat_template: '{% for message in messages %}{{ message.content }} {% endfor %}'
    }))
    federation = await startFederation({
      model, charter: { noise: 0, clip: 4 }, clients: [{}, { noise: 0.5 }]
    })
  }, 60_000)
  afterAll(async () => {
    await federation.stop()
    await rm(directory, { recursive: true, force: true })
  })
  afterEach(() => { vi.restoreAllMocks() })

  /** What servers are sent: the position and the bytes of each state. */
  function watchSent (): Array<{ position: number, bytes: string }> {
    const sent: Array<{ position: number, bytes: string }> = []
    const forward = original(RemoteCache, 'forward')
    vi.spyOn(RemoteCache.prototype, 'forward').mockImplementation(async function (this: RemoteCache, states, signal) {
      for (let row = 0; row < states.tensors[0]!.shape[0]!; row++) {
        const bytes = states.tensors.map((part) => Buffer.from(bytesOf(tensorRows(part, row, row + 1))).toString('hex')).join(' ')
        sent.push({ position: this.length + row, bytes })
      }
      return await forward.call(this, states, signal)
    })
    return sent
  }

  it.each([['greedily', {}], ['with a seed', { temperature: 0.9, seed: 3 }]])('gives the answers that each turn has alone, %s', async (_, sampling) => {
    const client = federation.clients[0]!
    const turns = await chat(client, sampling)
    for (const { messages, result } of turns) {
      // What is checked goes on with no sequence that was kept.
      const { ids } = await answer(client, messages, { ...sampling, speculate: 'off', verify: 1 })
      expect(ids).toEqual(result.ids)
    }
    for (const { result: { promptTokens, reusedTokens } } of turns.slice(1)) expect(reusedTokens).toBeGreaterThan(promptTokens / 2)
  })

  it('sends each token of its history once', async () => {
    const sent = watchSent()
    const turns = await chat(federation.clients[0]!, { speculate: 'off' }, TURNS.toReversed())
    const { promptTokens, tokens } = turns.at(-1)!.result
    const reused = turns.map(({ result }) => result.reusedTokens)
    expect(reused[0]).toBe(0)
    const all = turns.reduce((sum, { result }) => sum + result.promptTokens + result.tokens - 1, 0)
    expect(sent).toHaveLength(all - reused.reduce((sum, count) => sum + count, 0))
    // Tokens that a tokenizer reads otherwise than they were generated are sent anew, and nothing else.
    expect(sent.length).toBeLessThan(1.3 * (promptTokens + tokens))
    expect(federation.server.daemon.status().generation?.sequences).toBeGreaterThan(0)
  })

  it('sends the states of an answer that is asked for again as they were released, with noise', async () => {
    const client = federation.clients[1]!
    const sent = watchSent()
    const messages: Message[] = [{ role: 'user', content: 'a small boat' }]
    const first = await answer(client, messages)
    const before = sent.splice(0)
    expect(first.draftedTokens).toBe(0)
    expect(first.releasedStates).toBe(before.length)
    const again = await answer(client, messages, { temperature: 1, seed: 5 })
    expect(again.reusedTokens).toBe(first.promptTokens - 1)
    expect(sent[0]).toEqual(before[first.promptTokens - 1])
    const other = await answer(client, [...messages, { role: 'assistant', content: 'stone' }, { role: 'user', content: 'bridges' }])
    expect(other.ids.length).toBeGreaterThan(0)
    // In a sequence of its own, too, what was released is sent as it was.
    sent.length = 0
    await answer(client, messages, { verify: 1 })
    for (const { position, bytes } of sent.slice(0, first.promptTokens)) expect(bytes).toBe(before[position]!.bytes)
  })
})
