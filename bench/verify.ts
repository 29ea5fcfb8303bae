/**
 * How far the answers of servers are from a second computation: of honest ones, whose arithmetic differs, and of ones whose weights are of
 * fewer bits than they say. Prints the distances that the limits in src/roles/client/verification/limits.ts rest on, and how often a check
 * of some tokens errs.
 * Run: node bench/verify.ts MODEL [tokens of a text, 48] [texts, 4] [blocks of a span, 4] [kinds, such as fp32,products]
 */
import '../src/node/process/v8-flags.ts'
import { encodings, type Encoding } from '../src/encoding.ts'
import { openModelDirectory, type ModelDirectory } from '../src/model/checkpoint/directory.ts'
import { modelOf, type Model } from '../src/model/families/index.ts'
import { CachedClientModel } from '../src/model/generation/cached-client-model.ts'
import { CachedSpan } from '../src/model/generation/cached-span.ts'
import { weightFormats } from '../src/model/layers/weight-format.ts'
import { ModelWeights } from '../src/model/layers/weights.ts'
import { Boundary } from '../src/model/privacy/boundary.ts'
import { SAMPLE_TEXTS } from '../src/model/privacy/sample-text.ts'
import type { Device } from '../src/model/runtime/device.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { loadTokenizer } from '../src/model/text/load.ts'
import { loadClientModel } from '../src/model/training/client-model.ts'
import { TrainableSpan } from '../src/model/training/trainable-span.ts'
import { restartWithAllocatorSettings } from '../src/node/process/allocator.ts'
import { tokenDistances } from '../src/roles/client/verification/distance.ts'
import { isWithin, limitsOf } from '../src/roles/client/verification/limits.ts'
import type { Arithmetic } from '../src/roles/middle/arithmetic.ts'
import { GenerationEngine } from '../src/roles/server/generation/engine.ts'
import type { Span } from '../src/span.ts'
import { joinTensorRows, tensorRows, type Tensor } from '../src/tensor.ts'
import { median, printTable } from './support/print.ts'

const THREADS = 2
const ADAPTERS = { r: 8, alpha: 16, dropout: 0, rslora: false, seed: '07', targets: ['q_proj', 'v_proj'] }
const CACHE_BYTES = 2 ** 30
const PROMPT_TOKENS = 16
/** Checked tokens of which the rates are told. */
const WINDOWS = [1, 2, 8, 32]
const DRAWS = 20_000

/** What a server computes with: weights of a format in fp32, or fp32 weights in int8 (`--compute int8`). */
const kinds = [...weightFormats, 'products'] as const
type Kind = typeof kinds[number]

function arithmeticOf (kind: Kind): Arithmetic {
  return kind === 'products' ? { weights: 'fp32', device: 'cpu', compute: 'int8' } : { weights: kind, device: 'cpu', compute: 'fp32' }
}

/** What a server answered to a text, and another to the same states at once. */
interface Answers {
  /** A prompt, then one token after another. */
  readonly generated: readonly Tensor[]
  /** All in one prefill. */
  readonly prefill: readonly Tensor[]
}

interface Setting {
  readonly device: Device
  /** Computes products in int8. */
  readonly productsDevice: Device
  readonly model: Model
  readonly directory: ModelDirectory
  readonly ids: ReadonlyArray<readonly number[]>
}

/** Returns the hidden states that enter each of these spans, as a client without noise releases them. */
async function released ({ device, model, directory, ids }: Setting, first: number): Promise<Tensor[]> {
  const partition = { inputBlocks: first, outputBlocks: 0 }
  const { weights } = await loadClientModel(device, model, directory, partition, ADAPTERS, { format: 'fp32' })
  const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' })
  const states: Tensor[] = []
  for (const text of ids) {
    const ends = await CachedClientModel.create(weights, partition, text.length)
    states.push((await boundary.protect(await ends.embed(text), { clip: null, noise: 0 }, { count: text.length })).tensors[0]!)
    ends.free()
  }
  weights.free()
  return states
}

/** Computes the same states through a span in an arithmetic, as text is generated, and as it is checked. */
async function answers (setting: Setting, span: Span, kind: Kind, states: readonly Tensor[]): Promise<Answers[]> {
  const { model, directory } = setting
  const device = kind === 'products' ? setting.productsDevice : setting.device
  const weights = new ModelWeights(device, model, ADAPTERS, arithmeticOf(kind).weights)
  const blocks = await TrainableSpan.load(device, model, directory, span, ADAPTERS, { weights })
  const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' })
  const engine = new GenerationEngine({ device, model, blocks: new CachedSpan(weights), boundary, cacheBytes: CACHE_BYTES, span })
  const compute = async (id: string, all: Tensor, prompt: number): Promise<Tensor> => {
    const tokens = all.shape[0]!
    const sequence = await engine.open(id, 'client', span, tokens)
    const next = Array.from({ length: tokens - prompt }, (_, i) => tensorRows(all, prompt + i, prompt + i + 1))
    const parts = [tensorRows(all, 0, prompt), ...next]
    const outputs: Tensor[] = []
    for (const part of parts) outputs.push((await sequence.forward({ tensors: [part], context: undefined }))[0]!)
    await sequence.close()
    return joinTensorRows(outputs)
  }
  const all: Answers[] = []
  for (const [text, state] of states.entries()) {
    all.push({
      generated: [await compute(`generated ${text}`, state, Math.min(PROMPT_TOKENS, state.shape[0]!))],
      prefill: [await compute(`prefill ${text}`, state, state.shape[0]!)]
    })
  }
  blocks.free()
  weights.free()
  return all
}

/** Returns texts as the wire carries them. */
async function onWire ({ device, model }: Setting, wire: Encoding, [rows]: readonly Tensor[]): Promise<readonly Tensor[]> {
  return await new Boundary(device, { hidden: model.hiddenSize, rounding: wire }).encode(rows!)
}

/** Returns the share of runs of this many tokens, from anywhere in the texts, that a check takes for wrong. */
function shareFound (texts: readonly number[][], tokens: number, served: Arithmetic, checking: Arithmetic, wire: Encoding): number {
  const limits = limitsOf(served, checking, wire)
  let found = 0
  for (let draw = 0; draw < DRAWS; draw++) {
    const text = texts[draw % texts.length]!
    const from = Math.floor(Math.random() * (text.length - tokens + 1))
    if (!isWithin(text.slice(from, from + tokens), limits)) found++
  }
  return found / DRAWS
}

async function measure (setting: Setting, span: Span): Promise<void> {
  const states = await released(setting, span.first)
  const byKind = new Map<Kind, Answers[]>()
  for (const kind of chosen) byKind.set(kind, await answers(setting, span, kind, states))
  for (const wire of encodings) {
    const rows: string[][] = []
    for (const [claimed, actual, checker] of PAIRS.filter((pair) => pair.every((kind) => byKind.has(kind)))) {
      const texts: number[][] = []
      for (const [text, { generated }] of byKind.get(actual)!.entries()) {
        const { prefill } = byKind.get(checker)![text]!
        texts.push(tokenDistances(await onWire(setting, wire, generated), await onWire(setting, wire, prefill)))
      }
      const distances = texts.flat().toSorted((a, b) => a - b)
      const [served, checking] = [arithmeticOf(claimed), arithmeticOf(checker)]
      rows.push([
        actual === claimed ? `${claimed}, honest` : `${actual} in place of ${claimed}`,
        checker,
        ...[distances[0]!, median(distances), distances.at(-1)!].map((distance) => distance.toExponential(1)),
        ...WINDOWS.map((tokens) => shareFound(texts, tokens, served, checking, wire).toFixed(4))
      ])
    }
    console.log(`\nblocks ${span.first} to ${span.end - 1}, wire ${wire}: distances of ${states.reduce((sum, { shape }) => sum + shape[0]!, 0)} tokens, and the share of runs of tokens that a check finds wrong`)
    printTable(['weights of the server', 'of the second', 'least', 'median', 'most', ...WINDOWS.map((tokens) => `${tokens} tokens`)], rows)
  }
}

/** What a server says that its weights are, what they are, and what those of the second server are. */
const PAIRS: ReadonlyArray<readonly [claimed: Kind, actual: Kind, checker: Kind]> = [
  ...kinds.map((kind) => [kind, kind, kind] as const),
  ['fp16', 'fp16', 'fp32'],
  ['int8', 'int8', 'fp32'],
  ['int4', 'int4', 'fp32'],
  ['int4', 'int4', 'int8'],
  ['fp16', 'int8', 'fp16'],
  ['fp16', 'int4', 'fp16'],
  ['int8', 'int4', 'fp32'],
  ['int8', 'int4', 'int8'],
  ['products', 'products', 'fp32'],
  ['products', 'products', 'int8'],
  ['products', 'products', 'int4'],
  ['fp32', 'products', 'fp32'],
  ['products', 'int4', 'fp32']
]

restartWithAllocatorSettings()
const [, , path, tokens = '48', texts = '4', width = '4', some = kinds.join()] = process.argv
if (path === undefined) throw new Error('usage: node bench/verify.ts MODEL [tokens] [texts] [blocks of a span] [kinds]')
const chosen = kinds.filter((kind) => some.split(',').includes(kind))
const directory = await openModelDirectory(path)
const tokenizer = await loadTokenizer(path)
const device = await openDevice('cpu', { threads: THREADS })
const productsDevice = await openDevice('cpu', { threads: THREADS, compute: 'int8' })
const model = modelOf(directory.config)
const ids = SAMPLE_TEXTS.slice(0, Number(texts)).map((text) => tokenizer.encode(text).slice(0, Number(tokens)))
const setting = { device, productsDevice, model, directory, ids }
console.log(path, ids.map(({ length }) => length).join('+'), 'tokens')
await measure(setting, { first: 1, end: model.layers - 1 })
for (const first of [1, Math.floor(model.layers / 2)]) await measure(setting, { first, end: first + Number(width) })
await productsDevice.close()
await device.close()
