/**
 * Tokens a second with and without drafted tokens through networks of 20, 100 and 250 ms round trip, by kind of text, with a chat model:
 * SmolLM2-135M-Instruct, two blocks at either end with the client. Each text is generated without drafts and with them, one after the
 * other, and has to be the same. Run: node bench/latency.ts [tokens of a text, 64] [texts of a kind, 7] [round trips in ms, 20,100,250]
 * [source of drafts, history] [texts that a map learns from first, 40]
 * MIDSPAN_CHAT_MODEL names the model's directory. A map learns from dialogues of MIDSPAN_TEST_DATA, as prompts of 450 tokens or so.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ResultOf } from '../src/api/operations.ts'
import { ControlClient } from '../src/node/control/client.ts'
import { createFederation } from '../src/node/federation/create.ts'
import { joinFederation } from '../src/node/federation/join.ts'
import { homeAt } from '../src/node/home/home.ts'
import { MidspanProcess } from '../test/cli/process.ts'
import { chatModel, lessonTexts } from './support/chat-model.ts'
import { freePort, startDelayProxy } from './support/delay-proxy.ts'
import { founding } from './support/federation.ts'
import { latencyPrompts, type LatencyPrompt, type TextKind } from './support/latency-prompts.ts'
import { printTable } from './support/print.ts'

const ENDS = { min: 2, max: 2 }
const START_MS = 120_000
/** Bars for the longest and the shortest kinds: tokens a round trip over all, tokens a round trip where the answer stands in the prompt. */
const BARS = { mean: 1.7, copied: 2, leastSpeed: 0.98 }
const COPIED: ReadonlySet<TextKind> = new Set(['summarise', 'extract', 'edit'])

const [tokens = '64', perKind = '7', delays = '20,100,250', source = 'history', lessons = '40'] = process.argv.slice(2)
const model = chatModel()
const limit = (): AbortSignal => AbortSignal.timeout(60 * 60_000)

type Done = ResultOf<'generate'>

interface Pair {
  readonly kind: TextKind
  readonly plain: Done
  readonly drafted: Done
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

/** Tokens after the first a second, over several texts. */
function speed (texts: readonly Done[]): number {
  return sum(texts.map(({ tokens }) => tokens - 1)) / sum(texts.map(({ decodeSeconds }) => decodeSeconds))
}

/** Tokens a round trip, the prompt's left out. */
function perRoundTrip (texts: readonly Done[]): number {
  return sum(texts.map(({ tokens }) => tokens - 1)) / sum(texts.map(({ roundTrips }) => roundTrips - 1))
}

function rowOf (name: string, pairs: readonly Pair[]): string[] {
  const [plain, drafted] = [pairs.map((pair) => pair.plain), pairs.map((pair) => pair.drafted)]
  return [
    name, speed(plain).toFixed(2), speed(drafted).toFixed(2), (speed(drafted) / speed(plain)).toFixed(2), perRoundTrip(drafted).toFixed(2),
    `${sum(drafted.map(({ acceptedTokens }) => acceptedTokens))} of ${sum(drafted.map(({ draftedTokens }) => draftedTokens))}`,
    pairs.filter((pair) => pair.plain.ids.join() !== pair.drafted.ids.join()).length.toFixed(0)
  ]
}

/** The first prompts of each kind, the kinds in turn, as a client's day has them. */
function chosenPrompts (count: number): LatencyPrompt[] {
  const kinds = Map.groupBy(latencyPrompts, ({ kind }) => kind)
  return Array.from({ length: count }, (_, i) => [...kinds.values()].flatMap((prompts) => prompts[i] ?? [])).flat()
}

const directory = await mkdtemp(join(tmpdir(), 'midspan-latency-'))
const [serverHome, clientHome] = [join(directory, 'server'), join(directory, 'client')]
let server: MidspanProcess | undefined
let client: MidspanProcess | undefined
const port = await freePort()
const proxy = await startDelayProxy(port)
try {
  await createFederation(serverHome, {
    ...founding, model, strategy: 'client-batch', wire: 'fp16', loraTargets: ['q', 'v'], minClients: 1, inputBlocks: ENDS, outputBlocks: ENDS
  }, limit())
  server = new MidspanProcess([
    'daemon', '--home', serverHome, '--listen', `/ip4/127.0.0.1/tcp/${port}`, '--announce', `/ip4/127.0.0.1/tcp/${proxy.port}`, '--threads', '1'
  ])
  await server.line('Daemon is ready', START_MS)
  const { invite } = await new ControlClient(homeAt(serverHome)).request('invite', { role: 'client', expiresMs: 3_600_000, uses: 1 }, limit())
  await joinFederation(clientHome, { invite }, limit())
  console.log(`Generation of ${tokens} tokens greedily, up to ${perKind} texts of a kind, hidden 576, 30 blocks, 2 at either end, fp16 wire, sealed, drafts from ${source}`)
  const control = new ControlClient(homeAt(clientHome))
  const [firstRoundTripMs, ...others] = delays.split(',').map(Number)
  for (const roundTripMs of [firstRoundTripMs!, ...others]) {
    // Each delay has a client that knows no text yet.
    client = new MidspanProcess(['daemon', '--home', clientHome, '--threads', '1'])
    await client.line('Daemon is ready', START_MS)
    if (source === 'map' && roundTripMs === firstRoundTripMs) {
      for (const prompt of await lessonTexts(Number(lessons)))
        await control.request('generate', { prompt, maxTokens: 1, speculate: 'map' }, limit())
    }
    proxy.oneWayMs = roundTripMs / 2
    const text = async ({ messages }: Pick<LatencyPrompt, 'messages'>, speculate: string): Promise<Done> =>
      await control.request('generate', { messages, maxTokens: Number(tokens), speculate: speculate as 'off' }, limit())
    const warmUp = { messages: [{ role: 'user', content: 'Count from one to ten, twice.' }] }
    for (const mode of ['off', source]) await text(warmUp, mode)
    const pairs: Pair[] = []
    for (const prompt of chosenPrompts(Number(perKind)))
      pairs.push({ kind: prompt.kind, plain: await text(prompt, 'off'), drafted: await text(prompt, source) })
    await client.stop()
    proxy.oneWayMs = 0
    console.log(`\nRound trip ${roundTripMs} ms`)
    const kinds = [...Map.groupBy(pairs, ({ kind }) => kind)]
    const copied = pairs.filter(({ kind }) => COPIED.has(kind))
    printTable(['text', 'plain, tok/s', 'drafted, tok/s', 'over plain', 'tokens a trip', 'drafts accepted', 'texts that differ'], [
      ...kinds.map(([kind, some]) => rowOf(kind, some)),
      rowOf(`summarise, extract, edit (bar ${BARS.copied})`, copied),
      rowOf(`all (bar ${BARS.mean} tokens a trip; each kind ${BARS.leastSpeed} of plain)`, pairs)
    ])
  }
} finally {
  await client?.stop().catch(() => {})
  await server?.stop()
  proxy.close()
  await rm(directory, { recursive: true, force: true })
}
