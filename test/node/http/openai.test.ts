import { execFile, spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { joinFederation } from '../../../src/node/federation/join.ts'
import { homeAt } from '../../../src/node/home/home.ts'
import { updateConfig } from '../../../src/node/home/settings.ts'
import { run } from '../../cli/helpers.ts'
import { MidspanProcess } from '../../cli/process.ts'
import { startFederation, TestClient, TestPeer, type GenerationResult, type TestFederation } from '../../roles/helpers.ts'
import { makeChatModel } from './chat-model.ts'

const repository = fileURLToPath(new URL('../../../', import.meta.url))

/** What the documents call the federation, the client's home and the server. */
const MODEL = 'ward-notes'
const HOME = 'a'
const DOCUMENTED_ORIGIN = 'http://127.0.0.1:4010'

const PROMPT = 'On Monday'
const MESSAGES = [{ role: 'user' as const, content: PROMPT }]

/** How long a process may take to start on a busy machine. */
const START_TIMEOUT_MS = 90_000

const hasCurl = spawnSync('curl', ['--version']).status === 0

describe('OpenAI’s own client, with midspan serve before a client of a federation', { timeout: 120_000 }, () => {
  let root: string
  let federation: TestFederation
  let client: TestClient
  let serving: MidspanProcess
  let baseURL: string
  let openai: OpenAI
  /** What the daemon itself generates. */
  const generate = async (parameters: object): Promise<GenerationResult> =>
    await client.generate({ maxTokens: 12, ...parameters })

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-openai-'))
    await makeChatModel(join(root, 'model'))
    federation = await startFederation({ model: join(root, 'model'), charter: { name: MODEL }, clients: [] })
    const home = join(root, HOME)
    await joinFederation(home, { invite: federation.address }, AbortSignal.timeout(START_TIMEOUT_MS))
    await updateConfig(homeAt(home), { http: '127.0.0.1:0' })
    client = new TestClient(await TestPeer.start(home))
    await symlink(join(repository, 'node_modules'), join(root, 'node_modules'))
    serving = new MidspanProcess(['serve', '--home', home, '--http', '127.0.0.1:0'])
    baseURL = await serving.line('HTTP on ', START_TIMEOUT_MS)
    await serving.line('Server is ready')
    const apiKey = (await readFile(await serving.line('Bearer token in '), 'utf8')).trim()
    openai = new OpenAI({ baseURL, apiKey, maxRetries: 0 })
  }, 120_000)

  afterAll(async () => {
    const { code, err } = await serving.stop()
    await client.peer.stop()
    await federation.stop()
    await rm(root, { recursive: true, force: true })
    expect([code, err]).toEqual([0, ''])
  })

  it('lists the model, and describes it', async () => {
    const { data } = await openai.models.list()
    expect(data.map(({ id }) => id)).toEqual([MODEL])
    expect(await openai.models.retrieve(MODEL)).toEqual(data[0])
  })

  it('chats: the answer is the text that the daemon generates', async () => {
    const { choices: [choice], usage, object } = await openai.chat.completions.create({
      model: MODEL, messages: MESSAGES, temperature: 0, max_completion_tokens: 12
    })
    const { text, ids } = await generate({ messages: MESSAGES })
    expect(choice).toEqual({
      index: 0, message: { role: 'assistant', content: text, refusal: null }, logprobs: null, finish_reason: ids.length < 12 ? 'stop' : 'length'
    })
    expect([object, usage?.completion_tokens]).toEqual(['chat.completion', ids.length])
    expect(text).not.toBe('')
  })

  it('streams a chat: the pieces are the whole answer, and the usage comes last', async () => {
    const stream = await openai.chat.completions.create({
      model: MODEL, messages: MESSAGES, temperature: 0, max_tokens: 12, stream: true, stream_options: { include_usage: true }
    })
    const chunks = await Array.fromAsync(stream)
    const { text, ids } = await generate({ messages: MESSAGES })
    expect(chunks[0]!.choices[0]!.delta).toEqual({ role: 'assistant', content: '' })
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join('')).toBe(text)
    expect(chunks.at(-2)!.choices[0]!.finish_reason).toMatch(/stop|length/)
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: ids.length } })
    expect(chunks.length).toBeGreaterThan(5)
  })

  it('streams a chat through the helper of the package', async () => {
    const stream = openai.chat.completions.stream({ model: MODEL, messages: MESSAGES, temperature: 0, max_tokens: 12, n: 2 })
    const { choices } = await stream.finalChatCompletion()
    const { text } = await generate({ messages: MESSAGES })
    expect(choices.map(({ message }) => message.content)).toEqual([text, text])
  })

  it('completes a text, a list of texts, and token ids', async () => {
    const asked = { model: MODEL, temperature: 0, max_tokens: 12 }
    const [first, second] = [await generate({ prompt: PROMPT }), await generate({ prompt: 'In the morning' })]
    expect((await openai.completions.create({ ...asked, prompt: PROMPT })).choices[0]!.text).toBe(first.text)
    const { choices, usage } = await openai.completions.create({ ...asked, prompt: [PROMPT, 'In the morning'] })
    expect(choices.map(({ text }) => text)).toEqual([first.text, second.text])
    expect(usage!.completion_tokens).toBe(first.ids.length + second.ids.length)
    const ids = await generate({ ids: [1, 20, 30], ignoreEos: false })
    expect((await openai.completions.create({ ...asked, prompt: [1, 20, 30] })).choices[0]!.text).toBe(ids.text)
  })

  it('streams a completion', async () => {
    const stream = await openai.completions.create({ model: MODEL, prompt: PROMPT, temperature: 0, max_tokens: 12, stream: true })
    const chunks = await Array.fromAsync(stream)
    expect(chunks.map(({ choices }) => choices[0]?.text).join('')).toBe((await generate({ prompt: PROMPT })).text)
  })

  it('stops before a text, whole and streamed', async () => {
    const { text } = await generate({ prompt: PROMPT })
    const stop = text.slice(6, 9)
    const asked = { model: MODEL, prompt: PROMPT, temperature: 0, max_tokens: 12, stop: [stop, 'never to be seen'] }
    const { choices: [choice] } = await openai.completions.create(asked)
    expect(choice).toMatchObject({ text: text.slice(0, text.indexOf(stop)), finish_reason: 'stop' })
    const chunks = await Array.fromAsync(await openai.completions.create({ ...asked, stream: true }))
    expect(chunks.map(({ choices }) => choices[0]?.text).join('')).toBe(choice!.text)
  })

  it('gives n choices, of which choice i is that of the seed plus i', async () => {
    const asked = { model: MODEL, messages: MESSAGES, temperature: 1.5, max_tokens: 12 }
    const { choices } = await openai.chat.completions.create({ ...asked, n: 3, seed: 7 })
    const alone = await Promise.all([7, 8, 9].map(async (seed) => (await openai.chat.completions.create({ ...asked, seed })).choices[0]!))
    expect(choices.map(({ message }) => message.content)).toEqual(alone.map(({ message }) => message.content))
    expect(new Set(choices.map(({ message }) => message.content)).size).toBe(3)
  })

  it('tells the probabilities of a chat’s tokens, whole and streamed', async () => {
    const asked = { model: MODEL, messages: MESSAGES, temperature: 0, max_tokens: 6, logprobs: true, top_logprobs: 3 } as const
    const { choices: [choice] } = await openai.chat.completions.create(asked)
    const { content } = choice!.logprobs!
    expect(content!.map(({ token }) => token).join('')).toBe(choice!.message.content)
    for (const { token, logprob, top_logprobs: top, bytes } of content!) {
      expect(top).toHaveLength(3)
      expect(top[0]).toEqual({ token, logprob, bytes }) // the likeliest token was taken
      expect(Buffer.from(bytes!).toString()).toBe(token)
      expect(Math.exp(logprob)).toBeLessThanOrEqual(1)
    }
    const chunks = await Array.fromAsync(await openai.chat.completions.create({ ...asked, stream: true }))
    expect(chunks.flatMap(({ choices }) => choices[0]?.logprobs?.content ?? [])).toEqual(content)
  })

  it('tells the probabilities of a completion’s tokens', async () => {
    const asked = { model: MODEL, prompt: PROMPT, temperature: 0, max_tokens: 6, logprobs: 2 }
    const { choices: [choice] } = await openai.completions.create(asked)
    const { tokens, token_logprobs: told, top_logprobs: top, text_offset: offsets } = choice!.logprobs!
    expect(tokens!.join('')).toBe(choice!.text)
    expect(offsets).toEqual(tokens!.map((_, i) => tokens!.slice(0, i).join('').length))
    expect(top!.map((each, i) => each[tokens![i]!])).toEqual(told)
  })

  it('takes biases and penalties', async () => {
    const asked = { model: MODEL, prompt: PROMPT, temperature: 0, max_tokens: 6 }
    const { choices: [forced] } = await openai.completions.create({ ...asked, logit_bias: { 20: 100 }, logprobs: 0 })
    expect(new Set(forced!.logprobs!.tokens).size).toBe(1)
    const penalized = { ...asked, logit_bias: { 20: 15, 21: 14.9 }, frequency_penalty: 2, logprobs: 0 }
    const { choices: [varied] } = await openai.completions.create(penalized)
    expect(new Set(varied!.logprobs!.tokens).size).toBeGreaterThan(1)
  })

  it('repeats a text by its seed', async () => {
    const asked = { model: MODEL, prompt: PROMPT, temperature: 1.2, top_p: 0.9, max_tokens: 12, seed: 11 }
    const [first, second] = [await openai.completions.create(asked), await openai.completions.create(asked)]
    expect(first.choices[0]!.text).toBe(second.choices[0]!.text)
    expect(first.choices[0]!.text).toBe((await generate({ prompt: PROMPT, temperature: 1.2, topP: 0.9, seed: 11 })).text)
  })

  it('goes on as long as a sequence may be where no limit is given', async () => {
    const { choices: [choice], usage } = await openai.chat.completions.create({ model: MODEL, messages: MESSAGES, temperature: 0 })
    const { max_model_len: longest } = await openai.models.retrieve(MODEL) as unknown as { max_model_len: number }
    expect(choice!.finish_reason === 'stop' || usage!.total_tokens === longest).toBe(true)
  })

  it('tells the model of tools', async () => {
    const asked = { model: MODEL, messages: MESSAGES, temperature: 0, max_tokens: 4 }
    const tools = [{ type: 'function' as const, function: { name: 'On Friday', parameters: { type: 'object' } } }]
    const [without, withTools] = [await openai.chat.completions.create(asked), await openai.chat.completions.create({ ...asked, tools })]
    expect(withTools.usage!.prompt_tokens).toBeGreaterThan(without.usage!.prompt_tokens)
    expect(withTools.choices[0]!.message.content).toBe((await generate({ messages: MESSAGES, tools, maxTokens: 4 })).text)
  })

  it('keeps an answer to a JSON Schema, and to a call, whatever the model would write', async () => {
    const schema = {
      type: 'object',
      properties: { name: { type: 'string', maxLength: 8 }, ward: { enum: ['A', 'B'] }, beds: { type: 'integer', minimum: 1, maximum: 9 } },
      required: ['name', 'ward', 'beds'], additionalProperties: false
    }
    const asked = { model: MODEL, messages: MESSAGES, temperature: 1, seed: 3, max_completion_tokens: 120 }
    const format = { type: 'json_schema' as const, json_schema: { name: 'ward', schema, strict: true } }
    const { choices: [choice] } = await openai.chat.completions.create({ ...asked, response_format: format })
    expect(choice!.finish_reason).toBe('stop')
    const read = z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]).safeParse(JSON.parse(choice!.message.content!))
    expect(read.success).toBe(true)
    const parameters = { ...schema, properties: { ward: { const: 'A' } }, required: ['ward'] }
    const tools = [{ type: 'function' as const, function: { name: 'beds_of', parameters } }]
    const { choices: [called] } = await openai.chat.completions.create({ ...asked, tools, tool_choice: { type: 'function', function: { name: 'beds_of' } } })
    expect(called!.finish_reason).toBe('tool_calls')
    expect(called!.message.tool_calls).toMatchObject([{ type: 'function', function: { name: 'beds_of' } }])
    expect(JSON.parse((called!.message.tool_calls![0] as { function: { arguments: string } }).function.arguments)).toEqual({ ward: 'A' })
  })

  it('aborts a stream', async () => {
    const stream = await openai.chat.completions.create({ model: MODEL, messages: MESSAGES, stream: true })
    for await (const chunk of stream) {
      if (chunk.choices[0]!.delta.content !== '') break
    }
    expect(stream.controller.signal.aborted).toBe(true)
    const aborted = new AbortController()
    const asked = openai.completions.create({ model: MODEL, prompt: PROMPT, max_tokens: 200 }, { signal: aborted.signal })
    aborted.abort()
    await expect(asked).rejects.toBeInstanceOf(OpenAI.APIUserAbortError)
  })

  it('answers sixteen at once as it answers each alone', async () => {
    const asked = Array.from({ length: 16 }, (_, seed) => ({ model: MODEL, prompt: PROMPT, temperature: 1, max_tokens: 4, seed }))
    const together = await Promise.all(asked.map(async (each) => (await openai.completions.create(each)).choices[0]!.text))
    for (const i of [0, 15]) expect(together[i]).toBe((await openai.completions.create(asked[i]!)).choices[0]!.text)
  })

  it('names each failure by its class', async () => {
    const asked = { model: MODEL, messages: MESSAGES }
    await expect(new OpenAI({ baseURL, apiKey: 'wrong', maxRetries: 0 }).models.list()).rejects.toBeInstanceOf(OpenAI.AuthenticationError)
    await expect(openai.models.retrieve('gpt-4o')).rejects.toBeInstanceOf(OpenAI.NotFoundError)
    await expect(openai.chat.completions.create({ ...asked, parallel_tool_calls: false })).rejects
      .toMatchObject({ status: 400, param: 'parallel_tool_calls', code: 'unsupported_parameter', type: 'invalid_request_error' })
    const format = { type: 'json_schema' as const, json_schema: { name: 'x', schema: { type: 'string', pattern: 'a' } } }
    await expect(openai.chat.completions.create({ ...asked, response_format: format })).rejects.toMatchObject({ status: 400, code: 'E_OUTPUT_FORMAT' })
    await expect(openai.embeddings.create({ model: MODEL, input: 'x' })).rejects.toBeInstanceOf(OpenAI.NotFoundError)
    const long = { role: 'user' as const, content: 'On Monday '.repeat(200) }
    for (const stream of [true, false])
      await expect(openai.chat.completions.create({ ...asked, messages: [long], stream })).rejects.toMatchObject({ code: 'context_length_exceeded' })
  })

  it('runs the example of the README as it stands there', async () => {
    const [, code] = /```js\n(import OpenAI[^]*?)```/.exec(await readFile(join(repository, 'README.md'), 'utf8'))!
    expect(code!.trim().split('\n')).toHaveLength(5)
    const file = join(root, 'example.mjs')
    await writeFile(file, code!.replaceAll(DOCUMENTED_ORIGIN, new URL(baseURL).origin))
    const { stdout } = await promisify(execFile)(process.execPath, [file], { cwd: root })
    expect(stdout.trim()).not.toBe('')
  })

  it.skipIf(!hasCurl)('runs the curl examples of docs/http.md as they stand there', async () => {
    const page = await readFile(join(repository, 'docs/http.md'), 'utf8')
    const examples = [...page.matchAll(/```sh\n([^]*?)```/g)].map(([, text]) => text!).filter((text) => text.includes('curl'))
    expect(examples.length).toBeGreaterThan(3)
    for (const example of examples) {
      const script = `set -euo pipefail\nTOKEN=$(cat ${HOME}/http.token)\n${example.replaceAll(DOCUMENTED_ORIGIN, new URL(baseURL).origin)}`
      const { stdout } = await promisify(execFile)('bash', ['-c', script], { cwd: root })
      expect(stdout, example).not.toContain('"error"')
      expect(stdout, example).toMatch(/"object":|data: \[DONE\]|"status":"ok"/)
    }
  })

  it('is not served for a server, which has neither text nor the ends of the model', async () => {
    expect(await run(['serve', '--home', federation.server.home])).toMatchObject({ code: 2, err: expect.stringContaining("is a server's") as string })
  })

  it('is served by the daemon itself too, where its settings say so', async () => {
    const { url, tokenFile } = client.peer.daemon.status().http!
    const own = new OpenAI({ baseURL: url, apiKey: (await readFile(tokenFile, 'utf8')).trim(), maxRetries: 0 })
    const { choices: [choice] } = await own.completions.create({ model: MODEL, prompt: PROMPT, temperature: 0, max_tokens: 12 })
    expect(choice!.text).toBe((await generate({ prompt: PROMPT })).text)
  })
})
