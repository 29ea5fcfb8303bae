/** The same model on one machine in a process of its own. Arguments: model directory, threads, adapter targets. */
import '../../src/node/process/v8-flags.ts'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { LocalGenerator } from '../../src/model/generation/local-generator.ts'
import { argmax } from '../../src/model/generation/sampling.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { IGNORED_TARGET } from '../../src/model/text/batches.ts'
import { loadClientModel, type ClientModel } from '../../src/model/training/client-model.ts'
import { LocalTrainer, type TrainingBatch } from '../../src/model/training/local-trainer.ts'
import { founding } from './federation.ts'
import { MatrixProduct } from './matrix-product.ts'

/** Token ids of a batch's sequences. */
export type Sequences = number[][]

/**
 * Steps with adapters, one a batch, in which each token is to foretell the next; logits of every row of a batch, without adapters; tokens
 * after a prompt, with adapters or without; large matrix products.
 */
export type Question =
  | { readonly kind: 'train', readonly batches: readonly Sequences[] }
  | { readonly kind: 'forward', readonly batch: Sequences, readonly times: number }
  | { readonly kind: 'generate', readonly ids: readonly number[], readonly maxTokens: number, readonly adapters: boolean }
  | { readonly kind: 'product', readonly times: number }

/**
 * Milliseconds of each step, pass or product, or of each token after the first; the tokens; the first step's loss per token; the processor
 * time that all took.
 */
export interface Answer {
  readonly ms: readonly number[]
  readonly ids: readonly number[]
  readonly loss: number
  readonly cpuMs: number
}

type Measured = Pick<Answer, 'ms'> & Partial<Answer>

const [path, threads, targets] = process.argv.slice(2) as [string, string, string]
const { beta1, beta2, epsilon, weightDecay, learningRate, maxGradientNorm, loraR: r, loraAlpha: alpha, seed } = founding
const adapters = { r, alpha, dropout: 0, rslora: false, seed: String(seed), targets: targets.split(',').map((target) => `${target}_proj`) }
const directory = await openModelDirectory(path)
const model = modelOf(directory.config)
const device = await openDevice('cpu', { threads: Number(threads) })
let trainer: LocalTrainer | undefined
let ends: ClientModel | undefined
let generator: { readonly adapted: boolean, readonly local: LocalGenerator } | undefined
let product: MatrixProduct | undefined

async function timed (ms: number[], run: () => Promise<unknown>): Promise<void> {
  const start = performance.now()
  await run()
  ms.push(performance.now() - start)
}

function foretelling (ids: Sequences): TrainingBatch {
  return { ids, targets: ids.map((sequence) => [...sequence.slice(1), IGNORED_TARGET]) }
}

async function train ({ batches }: Extract<Question, { kind: 'train' }>): Promise<Measured> {
  trainer ??= await LocalTrainer.load(device, model, directory, { trainable: adapters, optimizer: { beta1, beta2, epsilon, weightDecay } })
  const ms: number[] = []
  const losses: number[] = []
  for (const batch of batches) {
    await timed(ms, async () => {
      const { lossSum, countedTokens } = await trainer!.step([foretelling(batch)], { learningRate, maxGradientNorm })
      losses.push(lossSum / countedTokens)
    })
  }
  return { ms, loss: losses[0] ?? NaN }
}

async function forward ({ batch, times }: Extract<Question, { kind: 'forward' }>): Promise<Measured> {
  ends ??= await loadClientModel(device, model, directory, { inputBlocks: 0, outputBlocks: model.layers }, 'weights')
  const { bottom, top } = ends
  const ms: number[] = []
  for (let pass = 0; pass < times; pass++) {
    await timed(ms, async () => {
      const { hidden } = await bottom.forward(batch, { keepResiduals: false })
      await top.logits({ hidden, lengths: batch.map(({ length }) => length) }, batch.flat().keys().toArray())
      device.free(hidden)
    })
  }
  return { ms }
}

async function generate ({ ids: prompt, maxTokens, adapters: adapted }: Extract<Question, { kind: 'generate' }>): Promise<Measured> {
  if (generator?.adapted !== adapted) {
    generator?.local.free()
    generator = { adapted, local: await LocalGenerator.load(device, model, directory, adapted ? adapters : 'weights') }
  }
  const ids: number[] = []
  const times: number[] = []
  for await (const id of generator.local.generate(prompt, argmax, { maxTokens })) {
    ids.push(id)
    times.push(performance.now())
  }
  return { ms: times.slice(1).map((time, index) => time - (times[index] as number)), ids }
}

async function multiply ({ times }: Extract<Question, { kind: 'product' }>): Promise<Measured> {
  product ??= await MatrixProduct.open(device)
  const ms: number[] = []
  for (let run = 0; run < times; run++) ms.push(await product.run())
  return { ms }
}

async function answer (question: Question): Promise<Measured> {
  switch (question.kind) {
    case 'train': return await train(question)
    case 'forward': return await forward(question)
    case 'generate': return await generate(question)
    case 'product': return await multiply(question)
  }
}

process.on('message', (question: Question) => {
  const before = process.cpuUsage()
  void answer(question).then((measured) => {
    const { user, system } = process.cpuUsage(before)
    process.send?.({ ids: [], loss: NaN, ...measured, cpuMs: (user + system) / 1000 } satisfies Answer)
  })
})
process.on('disconnect', () => { void device.close().finally(() => { process.exit() }) })
process.send?.({ ms: [], ids: [], loss: NaN, cpuMs: 0 } satisfies Answer)
