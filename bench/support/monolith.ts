/** The same model on one machine in a process of its own. Arguments: model directory, threads, adapter targets. */
import '../../src/node/v8-flags.ts'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { LocalGenerator } from '../../src/model/generation/local.ts'
import { argmax } from '../../src/model/generation/sampling.ts'
import { SeededRandom } from '../../src/model/random.ts'
import { openDevice } from '../../src/model/runtime/open.ts'
import { LocalTrainer } from '../../src/model/training/local.ts'
import { founding } from './federation.ts'

/** Steps on batches of random tokens, or tokens after a prompt. */
export type Question =
  | { readonly kind: 'train', readonly steps: number, readonly sequences: number, readonly tokens: number }
  | { readonly kind: 'generate', readonly ids: readonly number[], readonly maxTokens: number }

/** Milliseconds of each step, or of each token after the first; the tokens; the processor time that all took. */
export interface Answer {
  readonly ms: readonly number[]
  readonly ids: readonly number[]
  readonly cpuMs: number
}

const [path, threads, targets] = process.argv.slice(2) as [string, string, string]
const { beta1, beta2, epsilon, weightDecay, learningRate, maxGradientNorm, loraR: r, loraAlpha: alpha, seed } = founding
const adapters = { r, alpha, dropout: 0, rslora: false, seed: String(seed), targets: targets.split(',').map((target) => `${target}_proj`) }
const directory = await openModelDirectory(path)
const model = modelOf(directory.config)
const device = await openDevice('cpu', { threads: Number(threads) })
let trainer: LocalTrainer | undefined
let generator: LocalGenerator | undefined
const random = new SeededRandom('monolith')

async function train ({ steps, sequences, tokens }: Extract<Question, { kind: 'train' }>): Promise<Omit<Answer, 'cpuMs'>> {
  trainer ??= await LocalTrainer.load(device, model, directory, { trainable: adapters, optimizer: { beta1, beta2, epsilon, weightDecay } })
  const ms: number[] = []
  for (let step = 0; step < steps; step++) {
    const some = (): number[][] => Array.from({ length: sequences }, () => Array.from({ length: tokens }, () => random.below(model.vocabularySize)))
    const batch = { ids: some(), targets: some() }
    const start = performance.now()
    await trainer.step([batch], { learningRate, maxGradientNorm })
    ms.push(performance.now() - start)
  }
  return { ms, ids: [] }
}

async function generate ({ ids: prompt, maxTokens }: Extract<Question, { kind: 'generate' }>): Promise<Omit<Answer, 'cpuMs'>> {
  generator ??= await LocalGenerator.load(device, model, directory, adapters)
  const ids: number[] = []
  const times: number[] = []
  for await (const id of generator.generate(prompt, argmax, { maxTokens })) {
    ids.push(id)
    times.push(performance.now())
  }
  return { ms: times.slice(1).map((time, index) => time - (times[index] as number)), ids }
}

process.on('message', (question: Question) => {
  const before = process.cpuUsage()
  void (question.kind === 'train' ? train(question) : generate(question)).then((answer) => {
    const { user, system } = process.cpuUsage(before)
    process.send?.({ ...answer, cpuMs: (user + system) / 1000 } satisfies Answer)
  })
})
process.on('disconnect', () => { void device.close().finally(() => { process.exit() }) })
process.send?.({ ms: [], ids: [] })
