/**
 * Tokens a round trip by kind of text where four tokens are drafted in every round, by lookup in the text alone, and with a map of the
 * middle besides: what drafts are worth where a round trip costs much more than what is computed. In one process, without a network: times
 * play no part. SmolLM2-135M-Instruct, two blocks at either end with the client. MIDSPAN_CHAT_MODEL names the model's directory.
 * Run: node bench/drafts.ts [texts that the map learns from, 14] [texts of a kind, 2] [tokens of a text, 48]
 */
import { openModelDirectory } from '../src/model/checkpoint/directory.ts'
import { modelOf } from '../src/model/families/index.ts'
import { LookupDrafter } from '../src/model/generation/speculation/lookup-drafter.ts'
import { MiddleMap } from '../src/model/generation/speculation/middle-map.ts'
import { MAX_DRAFTED_TOKENS } from '../src/model/generation/speculation/speculation.ts'
import { Boundary } from '../src/model/privacy/boundary.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import type { ChatMessage } from '../src/model/text/chat-template.ts'
import { loadTokenizer } from '../src/model/text/load.ts'
import { loadClientModel } from '../src/model/training/client-model.ts'
import { TrainableSpan } from '../src/model/training/trainable-span.ts'
import { generateTokens } from '../src/roles/client/generation/generator.ts'
import { Sequence } from '../src/roles/client/generation/sequence.ts'
import { LocalStage } from '../src/roles/middle/local-stage.ts'
import { Route } from '../src/roles/middle/route.ts'
import { chatModel, lessonTexts } from './support/chat-model.ts'
import { latencyPrompts, type TextKind } from './support/latency-prompts.ts'
import { printTable } from './support/print.ts'

/** A shorter match is a worse sign than the map. */
const LEAST_MATCH = 2
const CAPACITY = 1024

const [lessons = 14, perKind = 2, maxTokens = 48] = process.argv.slice(2).map(Number)
const path = chatModel()
const device = await openDevice('cpu', { threads: 1 })
const directory = await openModelDirectory(path)
const model = modelOf(directory.config)
const tokenizer = await loadTokenizer(path)
const partition = { inputBlocks: 2, outputBlocks: 2 }
const { weights } = await loadClientModel(device, model, directory, partition, 'weights')
const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp16' })
const middle = await TrainableSpan.load(device, model, directory, { first: 2, end: model.layers - 2 }, 'weights')
const route = new Route([new LocalStage({ device, span: middle, boundary })])
const map = new MiddleMap(device, model.hiddenSize)
const { signal } = new AbortController()

/** Opens a sequence; one without the map teaches it nothing. */
async function open (map?: MiddleMap): Promise<Sequence> {
  const settings = { protection: { clip: null, noise: 0 }, keepsStream: false, partition, capacity: CAPACITY, text: '' }
  return await Sequence.open({ weights, boundary, route, ledger: { record: async () => {} }, map }, settings, signal)
}

interface Counts {
  rounds: number
  tokens: number
  /** The first tokens of drafts of the map, and those of them that were next. */
  predicted: number
  accepted: number
}

/** Generates a text, and counts its round trips after the prompt's. */
async function count (messages: readonly ChatMessage[], usesMap: boolean): Promise<Counts> {
  const prompt = tokenizer.encodeChat(messages)
  const sequence = await open(usesMap ? map : undefined)
  const drafter = new LookupDrafter(CAPACITY)
  drafter.add(prompt)
  const counts: Counts = { rounds: -1, tokens: -1, predicted: 0, accepted: 0 }
  let isPredicted = false
  const tokens = generateTokens(sequence, prompt, { temperature: 0, seed: '' }, { maxTokens, stopIds: tokenizer.eosIds }, {
    draft: async (room, predict) => {
      const most = Math.min(room, MAX_DRAFTED_TOKENS)
      const found = drafter.draft(most)
      isPredicted = usesMap && most > 0 && (found?.matched ?? 0) < LEAST_MATCH
      return isPredicted ? await predict(most) : found?.tokens ?? []
    },
    committed: (ids, { sent, accepted }) => {
      drafter.add(ids)
      counts.rounds++
      counts.tokens += ids.length
      if (!isPredicted) return
      counts.predicted += Math.min(sent, 1)
      counts.accepted += Math.min(accepted, 1)
    }
  }, signal)
  await Array.fromAsync(tokens)
  await sequence.close()
  return counts
}

for (const text of await lessonTexts(lessons)) {
  const sequence = await open(map)
  await sequence.next(tokenizer.encode(text), { guess: false }, signal)
  await sequence.close()
}
await map.settled()
console.log(`Four drafted tokens in each round, ${maxTokens} tokens greedily, up to ${perKind} texts of a kind; the map learnt from ${map.pairs} positions\n`)
const kinds = Map.groupBy(latencyPrompts, ({ kind }) => kind)
const totals = new Map<TextKind, readonly [lookup: Counts[], mapped: Counts[]]>()
for (const [kind, prompts] of kinds) {
  const both: [Counts[], Counts[]] = [[], []]
  for (const { messages } of prompts.slice(0, perKind)) {
    both[0].push(await count(messages as readonly ChatMessage[], false))
    both[1].push(await count(messages as readonly ChatMessage[], true))
  }
  totals.set(kind, both)
}
const sum = (all: readonly Counts[], name: keyof Counts): number => all.reduce((total, counts) => total + counts[name], 0)
const row = (name: string, lookup: readonly Counts[], mapped: readonly Counts[]): string[] => [
  name, ...[lookup, mapped].map((all) => (sum(all, 'tokens') / sum(all, 'rounds')).toFixed(2)), `${sum(mapped, 'accepted')} of ${sum(mapped, 'predicted')}`
]
printTable(['text', 'lookup, tokens a trip', 'with the map', 'first tokens of the map accepted'], [
  ...[...totals].map(([kind, [lookup, mapped]]) => row(kind, lookup, mapped)),
  row('all', [...totals.values()].flatMap(([lookup]) => lookup), [...totals.values()].flatMap(([, mapped]) => mapped))
])
await map.close()
await device.close()
