import { once } from 'node:events'
import { mkdir, readFile } from 'node:fs/promises'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import fc from 'fast-check'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { MAX_LOGIT_BIAS, MAX_STOP_CHARACTERS, MAX_STOPS, MAX_TOP_LOGPROBS } from '../../../src/api/generate.ts'
import { MAX_JSON_DEPTH } from '../../../src/api/json.ts'
import type { ChatChunk, ChatCompletion } from '../../../src/api/openai/chat.ts'
import { MAX_CHOICES } from '../../../src/api/openai/fields.ts'
import { MidspanError } from '../../../src/errors.ts'
import { homeAt } from '../../../src/node/home/home.ts'
import { MAX_BODY_BYTES } from '../../../src/node/http/body.ts'
import { MAX_HTTP_CONNECTIONS, startHttpServer, type HttpServer } from '../../../src/node/http/server.ts'
import type { Charter } from '../../../src/protocols/charter/index.ts'
import { temporaryDirectory } from '../fixture.ts'
import { done, endless, pieces, ScriptedBackend } from './scripted-backend.ts'

const MODEL = 'ward notes'

/** What the server reads of a charter. */
const charter = {
  name: MODEL, createdAt: '2026-01-01T00:00:00.000Z', founder: 'founder', limits: { maxSequenceTokens: 64, maxSessionsPerClient: 4 }
} as Charter

interface Served {
  readonly server: HttpServer
  readonly token: string
  readonly logged: object[]
  /** Asks with the token. */
  readonly ask: (path: string, body?: object, init?: RequestInit) => Promise<Response>
}

async function serve (backend: ScriptedBackend): Promise<Served> {
  const home = homeAt(await temporaryDirectory())
  await mkdir(home.root, { recursive: true })
  const logged: object[] = []
  const log = (details: object): void => { logged.push(details) }
  const server = await startHttpServer({
    home, charter, address: { host: '127.0.0.1', port: 0 }, hosts: ['gpu.example.org'], backend,
    logger: { debug: () => {}, info: () => {}, warn: log, error: log }
  })
  onTestFinished(async () => { await server.stop() })
  const token = (await readFile(server.tokenPath, 'utf8')).trim()
  return {
    server,
    token,
    logged,
    ask: async (path, body, init = {}) => await fetch(`${new URL(server.url).origin}${path}`, {
      ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
      ...init,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...init.headers }
    })
  }
}

/** A JSON Schema that is nested so deep. */
function nested (depth: number): object {
  return Array.from({ length: depth }).reduce<object>((inner) => ({ inner }), {})
}

const chat = (changes: object = {}): object => ({ model: MODEL, messages: [{ role: 'user', content: 'Hello' }], ...changes })
const text = (changes: object = {}): object => ({ model: MODEL, prompt: 'Once', ...changes })

interface Refused {
  readonly status: number
  readonly param: string | null
  readonly code: string
  readonly message: string
  readonly type: string
}

async function refusal (response: Response): Promise<Refused> {
  const { error } = await response.json() as { error: Omit<Refused, 'status'> }
  return { status: response.status, ...error }
}

/** The status of a request with these headers, as a program that is no browser may send them. */
async function statusWith (server: HttpServer, headers: Record<string, string>, path = '/v1/models'): Promise<IncomingMessage> {
  const { hostname, port } = new URL(server.url)
  const sent = httpRequest({ hostname, port, path, headers }).end()
  const [response] = await once(sent, 'response') as [IncomingMessage]
  response.resume()
  return response
}

describe('who asks over HTTP', () => {
  it('is let in with the token alone, and needs none to ask after health and for the OpenAPI document', async () => {
    const { ask, server } = await serve(new ScriptedBackend(() => pieces('x')))
    expect((await ask('/v1/models')).status).toBe(200)
    for (const headers of [{ authorization: 'Bearer wrong' }, { authorization: '' }]) {
      const response = await ask('/v1/models', undefined, { headers })
      expect(response.headers.get('www-authenticate')).toBe('Bearer')
      expect(await refusal(response)).toMatchObject({ status: 401, code: 'invalid_api_key', type: 'invalid_request_error' })
    }
    const open = new URL(server.url).origin
    expect((await fetch(`${open}/openapi.json`)).status).toBe(200)
    expect(await (await fetch(`${open}/health`)).json()).toEqual({ status: 'unavailable' })
  })

  it('is refused by another name than the server’s, with the token too', async () => {
    const { server, token } = await serve(new ScriptedBackend(() => pieces('x')))
    const authorization = `Bearer ${token}`
    expect((await statusWith(server, { host: 'attacker.example', authorization })).statusCode).toBe(403)
    expect((await statusWith(server, { host: 'attacker.example' }, '/health')).statusCode).toBe(403)
    expect((await statusWith(server, { host: 'gpu.example.org', authorization })).statusCode).toBe(200)
  })

  it('gets no leave to read answers from pages of other origins', async () => {
    const { server, token } = await serve(new ScriptedBackend(() => pieces('x')))
    const { headers } = await statusWith(server, { origin: 'http://attacker.example', authorization: `Bearer ${token}` })
    expect(Object.keys(headers).filter((name) => name.startsWith('access-control'))).toEqual([])
  })

  it(`sends a body of ${MAX_BODY_BYTES} bytes at most`, async () => {
    const { ask } = await serve(new ScriptedBackend(() => pieces('x')))
    const content = 'x'.repeat(MAX_BODY_BYTES)
    expect(await refusal(await ask('/v1/chat/completions', chat({ messages: [{ role: 'user', content }] })))).toMatchObject({
      status: 413, code: 'body_too_large'
    })
    const nearly = content.slice(JSON.stringify(chat({ messages: [{ role: 'user', content: '' }] })).length)
    expect((await ask('/v1/chat/completions', chat({ messages: [{ role: 'user', content: nearly }] }))).status).toBe(200)
  })

  it('sends JSON that says that it is JSON', async () => {
    const { ask } = await serve(new ScriptedBackend(() => pieces('x')))
    expect(await refusal(await ask('/v1/completions', text(), { headers: { 'content-type': 'text/plain' } }))).toMatchObject({ status: 415 })
    for (const body of ['', '{', '[]', '1', 'null'])
      expect(await refusal(await ask('/v1/completions', {}, { body }))).toMatchObject({ status: 400, code: 'invalid_json' })
  })

  it('is told what there is where there is nothing', async () => {
    const { ask } = await serve(new ScriptedBackend(() => pieces('x')))
    for (const [path, body] of [['/v1/embeddings', {}], ['/', undefined], ['/v1/completions', undefined]] as const)
      expect(await refusal(await ask(path, body))).toMatchObject({ status: 404, code: 'unknown_url' })
  })

  it(`may have ${MAX_HTTP_CONNECTIONS} connections`, async () => {
    const { server } = await serve(new ScriptedBackend(() => pieces('x')))
    const port = Number(new URL(server.url).port)
    const sockets = Array.from({ length: MAX_HTTP_CONNECTIONS + 1 }, () => connect(port, '127.0.0.1').on('error', () => {}))
    onTestFinished(() => { for (const socket of sockets) socket.destroy() })
    const closed = await Promise.race(sockets.map(async (socket) => {
      await once(socket, 'close')
      return true
    }))
    expect(closed).toBe(true)
  })
})

describe('a request', () => {
  it.each<[string, object, string]>([
    ['a tool of another kind', { tools: [{ type: 'web_search' }] }, 'tools.0.type'],
    ['one call at a time', { parallel_tool_calls: false }, 'parallel_tool_calls'],
    ['a field that nobody knows', { best_guess: true }, 'best_guess'],
    ['an image', { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] }, 'messages.0.content.0.type'],
    ['audio in a message', { messages: [{ role: 'assistant', content: 'x', audio: { id: 'x' } }] }, 'messages.0.audio'],
    ['audio', { modalities: ['audio'] }, 'modalities'],
    ['store', { store: true }, 'store']
  ])('for %s is refused by name', async (_, changes, param) => {
    const backend = new ScriptedBackend(() => pieces('x'))
    const { ask } = await serve(backend)
    expect(await refusal(await ask('/v1/chat/completions', chat(changes)))).toMatchObject({
      status: 400, param, code: 'unsupported_parameter', type: 'invalid_request_error', message: expect.stringContaining(param) as string
    })
    expect(backend.asked).toEqual([])
  })

  it.each<[object, string]>([
    [{ messages: [] }, 'messages'],
    [{ tool_choice: 'some' }, 'tool_choice'],
    [{ response_format: { type: 'grammar' } }, 'response_format.type'],
    [{ messages: [{ role: 'robot', content: 'x' }] }, 'messages.0.role'],
    [{ messages: [{ role: 'user', content: 3 }] }, 'messages.0.content'],
    [{ messages: [{ role: 'user' }] }, 'messages.0.content'],
    [{ tools: [{ type: 'function', function: { name: 'f', parameters: nested(MAX_JSON_DEPTH + 1) } }] }, 'tools.0.function.parameters'],
    [{ temperature: 2.1 }, 'temperature'],
    [{ top_p: 0 }, 'top_p'],
    [{ n: MAX_CHOICES + 1 }, 'n'],
    [{ stop: Array.from({ length: MAX_STOPS + 1 }, () => 'x') }, 'stop'],
    [{ stop: ['x'.repeat(MAX_STOP_CHARACTERS + 1)] }, 'stop.0'],
    [{ stop: '' }, 'stop'],
    [{ logprobs: true, top_logprobs: MAX_TOP_LOGPROBS + 1 }, 'top_logprobs'],
    [{ top_logprobs: 1 }, 'top_logprobs'],
    [{ logit_bias: { 1: MAX_LOGIT_BIAS + 1 } }, 'logit_bias.1'],
    [{ logit_bias: { x: 1 } }, 'logit_bias.x'],
    [{ max_tokens: 0 }, 'max_tokens'],
    [{ stream_options: { include_usage: true } }, 'stream_options'],
    [{ frequency_penalty: 3 }, 'frequency_penalty']
  ])('with %j is refused, and the field is named', async (changes, param) => {
    const { ask } = await serve(new ScriptedBackend(() => pieces('x')))
    expect(await refusal(await ask('/v1/chat/completions', chat(changes)))).toMatchObject({ status: 400, param, code: 'invalid_value' })
  })

  it('for more texts than may be is refused', async () => {
    const { ask } = await serve(new ScriptedBackend(() => pieces('x')))
    expect(await refusal(await ask('/v1/completions', text({ prompt: ['a', 'b'], n: MAX_CHOICES / 2 + 1 })))).toMatchObject({ status: 400, param: 'n' })
  })

  it('for another model is refused', async () => {
    const { ask } = await serve(new ScriptedBackend(() => pieces('x')))
    expect(await refusal(await ask('/v1/chat/completions', chat({ model: 'gpt-4o' })))).toMatchObject({
      status: 404, param: 'model', code: 'model_not_found', message: expect.stringContaining(MODEL) as string
    })
    expect(await refusal(await ask('/v1/models/gpt-4o'))).toMatchObject({ status: 404 })
    expect(await (await ask(`/v1/models/${encodeURIComponent(MODEL)}`)).json()).toMatchObject({ id: MODEL, max_model_len: 64 })
  })

  it('may have null for whatever it leaves out, also in its messages', async () => {
    const backend = new ScriptedBackend(() => pieces('x'))
    const { ask } = await serve(backend)
    const messages = [{ role: 'assistant', content: 'Hello', refusal: null, tool_calls: null }, { role: 'developer', content: [{ type: 'text', text: 'Be brief' }] }]
    expect((await ask('/v1/chat/completions', chat({ messages, seed: null, tools: null, stop: null }))).status).toBe(200)
    expect(backend.asked[0]!.messages).toEqual([
      { role: 'assistant', content: 'Hello' }, { role: 'system', content: [{ type: 'text', text: 'Be brief' }] }
    ])
  })

  it('of any shape is answered or refused, and never fails by a defect', async () => {
    const { ask, logged } = await serve(new ScriptedBackend(() => pieces('x')))
    const names = fc.constantFrom('messages', 'prompt', 'n', 'stop', 'stream', 'logit_bias', 'response_format', 'temperature', 'tools', '__proto__')
    const path = fc.constantFrom('/v1/chat/completions', '/v1/completions')
    await fc.assert(fc.asyncProperty(path, fc.dictionary(names, fc.jsonValue()), async (path, fields) => {
      const { status } = await ask(path, { ...chat(), ...fields })
      expect([200, 400]).toContain(status)
    }), { numRuns: 60 })
    expect(logged).toEqual([])
  })

  it('is given to the daemon in its own words', async () => {
    const backend = new ScriptedBackend(() => pieces('x'))
    const { ask } = await serve(backend)
    await ask('/v1/completions', text({
      prompt: [[1, 2], [3]], n: 2, seed: 7, max_tokens: 9, temperature: 0.5, top_p: 0.9, top_k: 40, stop: 'END', logit_bias: { 5: -1 },
      presence_penalty: 0.5, frequency_penalty: -0.5, logprobs: 3, ignore_eos: true
    }))
    const shared = {
      maxTokens: 9, temperature: 0.5, topP: 0.9, topK: 40, stop: ['END'], logitBias: { 5: -1 }, presencePenalty: 0.5, frequencyPenalty: -0.5,
      logprobs: 3, ignoreEos: true
    }
    expect(backend.asked).toEqual([{ ids: [1, 2], seed: 7 }, { ids: [1, 2], seed: 8 }, { ids: [3], seed: 7 }, { ids: [3], seed: 8 }]
      .map((own) => ({ ...shared, ...own })))
  })
})

describe('an answer', () => {
  it('counts a prompt once, and the tokens of every choice', async () => {
    const { ask } = await serve(new ScriptedBackend(() => pieces('x')))
    const { usage, choices } = await (await ask('/v1/chat/completions', chat({ n: 3 }))).json() as { usage: object, choices: object[] }
    expect(usage).toEqual({ prompt_tokens: 5, completion_tokens: 9, total_tokens: 14 })
    expect(choices).toHaveLength(3)
  })

  it('in pieces ends with the usage where that is asked for, and [DONE]', async () => {
    const { ask } = await serve(new ScriptedBackend(async function * () {
      yield { type: 'waiting', reason: 'before the first' }
      yield { type: 'text', text: 'It' }
      yield { type: 'waiting', reason: 'a server is\nlost' }
      yield done('It')
    }))
    const response = await ask('/v1/completions', text({ stream: true, stream_options: { include_usage: true } }))
    expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/)
    const events = (await response.text()).split('\n\n')
    expect(events).toEqual([
      expect.stringMatching(/^data: .*"text":"It".*"usage":null/) as string,
      ': waiting: a server is lost',
      expect.stringMatching(/^data: .*"finish_reason":"stop"/) as string,
      expect.stringMatching(/^data: .*"choices":\[\],"usage":\{"prompt_tokens":5,/) as string,
      'data: [DONE]',
      ''
    ])
  })

  it('has the status of what fails before it, and tells in the stream what fails later', async () => {
    const failure = new MidspanError('E_NO_SERVER', 'nobody serves block 3', { next: 'wait' })
    const { ask } = await serve(new ScriptedBackend(async function * ({ prompt }) {
      if (prompt === 'late') yield { type: 'text', text: 'It' }
      throw failure
    }))
    for (const stream of [true, false]) {
      expect(await refusal(await ask('/v1/completions', text({ stream })))).toEqual({
        status: 503, type: 'server_error', code: 'E_NO_SERVER', message: 'nobody serves block 3 (wait)', param: null
      })
    }
    const response = await ask('/v1/completions', text({ prompt: 'late', stream: true }))
    expect(response.status).toBe(200)
    const events = (await response.text()).trim().split('\n\n')
    expect(JSON.parse(events.at(-1)!.slice('data: '.length))).toMatchObject({ error: { code: 'E_NO_SERVER' } })
  })

  it.each([
    ['E_CONTEXT_LENGTH', 400, 'context_length_exceeded'],
    ['E_CACHE_FULL', 429, 'E_CACHE_FULL'],
    ['E_NOT_ADMITTED', 502, 'E_NOT_ADMITTED'],
    ['E_INTERNAL', 500, 'E_INTERNAL']
  ])('that fails with %s has the status %i', async (code, status, told) => {
    const { ask } = await serve(new ScriptedBackend(async function * () { throw new MidspanError(code, 'x') }))
    expect(await refusal(await ask('/v1/completions', text()))).toMatchObject({ status, code: told })
  })

  it('that fails by a defect says where the log is, and the log has the defect', async () => {
    const { ask, logged } = await serve(new ScriptedBackend(async function * () { throw new TypeError('secret of a stack') }))
    const refused = await refusal(await ask('/v1/completions', text()))
    expect(refused).toMatchObject({ status: 500, type: 'server_error' })
    expect(refused.message).toMatch(/daemon\.log/)
    expect(refused.message).not.toContain('secret')
    expect(logged).toHaveLength(1)
  })
})

describe('an answer that asks for tools', () => {
  const tools = [{ type: 'function', function: { name: 'look_up', parameters: { type: 'object' } } }]
  const texts = ['Let me', ' see.\n<tool', '_call>\n{"name": "look_up", "arguments": {"of": "cough"}}\n</tool_call>\n', '<tool_call>{"name":"f"}</tool_call>']

  it('has the calls beside its text, whole and in pieces', async () => {
    const backend = new ScriptedBackend(() => pieces(...texts))
    const { ask } = await serve(backend)
    const { choices: [choice] } = await (await ask('/v1/chat/completions', chat({ tools }))).json() as ChatCompletion
    const id = expect.stringMatching(/^call_/) as string
    const calls = [{ name: 'look_up', arguments: '{"of":"cough"}' }, { name: 'f', arguments: '{}' }].map((each) => ({ id, type: 'function', function: each }))
    expect(choice).toMatchObject({ finish_reason: 'tool_calls', message: { content: 'Let me see.', tool_calls: calls } })
    expect(backend.asked[0]!.tools).toEqual(tools)
    const streamed = await (await ask('/v1/chat/completions', chat({ tools, stream: true }))).text()
    const deltas = streamed.split('\n\n').slice(0, -2).map((event) => (JSON.parse(event.slice('data: '.length)) as ChatChunk).choices[0]!)
    expect(deltas.map(({ delta }) => delta.content ?? '').join('')).toBe('Let me see.')
    expect(deltas.flatMap(({ delta }) => delta.tool_calls ?? [])).toEqual(calls.map((call, index) => ({ index, ...call })))
    expect(deltas.at(-1)!.finish_reason).toBe('tool_calls')
  })

  it('is text where no tools were given, or none may be used', async () => {
    const backend = new ScriptedBackend(() => pieces(...texts))
    const { ask } = await serve(backend)
    for (const changes of [{}, { tools: [] }, { tools, tool_choice: 'none' }]) {
      const { choices: [choice] } = await (await ask('/v1/chat/completions', chat(changes))).json() as ChatCompletion
      expect(choice).toMatchObject({ finish_reason: 'stop', message: { content: texts.join('') } })
    }
    expect(backend.asked.map((asked) => asked.tools)).toEqual([undefined, undefined, undefined])
  })

  it('has to be written where the request says so', async () => {
    const backend = new ScriptedBackend(() => pieces(...texts))
    const { ask } = await serve(backend)
    const named = { type: 'function', function: { name: 'f' } }
    for (const choice of ['auto', 'required', named])
      expect((await ask('/v1/chat/completions', chat({ tools, tool_choice: choice }))).status).toBe(200)
    expect(backend.asked.map(({ toolChoice }) => toolChoice)).toEqual(['auto', 'required', { name: 'f' }])
    expect(await refusal(await ask('/v1/chat/completions', chat({ tool_choice: 'required' })))).toMatchObject({ status: 400, param: 'tool_choice' })
  })

  it('is followed by what the tools gave', async () => {
    const backend = new ScriptedBackend(() => pieces('x'))
    const { ask } = await serve(backend)
    const call = { id: 'call_1', type: 'function', function: { name: 'look_up', arguments: '{}' } }
    const messages = [{ role: 'user', content: 'x' }, { role: 'assistant', content: null, tool_calls: [call] }, { role: 'tool', tool_call_id: 'call_1', content: '7' }]
    expect((await ask('/v1/chat/completions', chat({ messages, tools }))).status).toBe(200)
    expect(backend.asked[0]!.messages).toEqual([messages[0], { ...messages[1], content: '' }, messages[2]])
  })
})

describe('a caller who goes away', () => {
  it.each([true, false])('ends its work (stream: %s)', async (stream) => {
    const backend = new ScriptedBackend((_, signal) => endless(signal))
    const { ask, logged } = await serve(backend)
    const caller = new AbortController()
    const asked = ask('/v1/chat/completions', chat({ stream, n: 2 }), { signal: caller.signal })
    await vi.waitFor(() => { expect(backend.active).toBe(2) })
    if (stream) await (await asked).body!.getReader().read()
    caller.abort()
    if (!stream) await expect(asked).rejects.toThrow()
    await vi.waitFor(() => { expect([backend.active, backend.ended]).toEqual([0, 2]) })
    expect(logged).toEqual([])
  })

  it('ends the wait for a place too', async () => {
    const backend = new ScriptedBackend((_, signal) => endless(signal))
    const { ask } = await serve(backend)
    const [first, second] = [new AbortController(), new AbortController()]
    const running = ask('/v1/chat/completions', chat({ n: 3 }), { signal: first.signal })
    await vi.waitFor(() => { expect(backend.active).toBe(3) })
    const waiting = ask('/v1/chat/completions', chat({ n: 1 }), { signal: second.signal })
    second.abort()
    await expect(waiting).rejects.toThrow()
    first.abort()
    await expect(running).rejects.toThrow()
    await vi.waitFor(() => { expect(backend.active).toBe(0) })
    expect(backend.asked).toHaveLength(3)
  })
})

describe('many requests at once', () => {
  it('wait for one another, so that no more texts are under way than a client has sessions for', async () => {
    const backend = new ScriptedBackend(({ prompt }) => pieces(prompt!, '!'))
    const { ask } = await serve(backend)
    const answers = await Promise.all(Array.from({ length: 16 }, async (_, i) =>
      await (await ask('/v1/completions', text({ prompt: `p${i}` }))).json() as { choices: Array<{ text: string }> }))
    expect(answers.map(({ choices }) => choices[0]!.text)).toEqual(Array.from({ length: 16 }, (_, i) => `p${i}!`))
    expect(backend.mostActive).toBe(charter.limits.maxSessionsPerClient - 1)
  })
})

describe('an HTTP server', () => {
  it('says which port is in use', async () => {
    const backend = new ScriptedBackend(() => pieces('x'))
    const { server } = await serve(backend)
    const port = Number(new URL(server.url).port)
    await expect(startHttpServer({
      home: homeAt(await temporaryDirectory()), charter, address: { host: '127.0.0.1', port }, hosts: [], backend,
      logger: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
    })).rejects.toThrow(`127.0.0.1:${port}: the port is in use`)
  })

  it('ends what is under way when it stops, and tells the callers', async () => {
    const backend = new ScriptedBackend((_, signal) => endless(signal))
    const { ask, server } = await serve(backend)
    const response = await ask('/v1/chat/completions', chat({ stream: true }))
    await server.stop()
    expect(await response.text()).toContain('E_STOPPED')
    expect(backend.active).toBe(0)
    await server.stop()
  })
})
