import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import { modelOf, type Config } from '../../../src/model/families/index.ts'
import { LocalGenerator } from '../../../src/model/generation/local-generator.ts'
import { createSampler } from '../../../src/model/generation/sampling.ts'
import { initialAdapters } from '../../../src/model/layers/lora.ts'
import type { AdapterTraining } from '../../../src/model/layers/trainable.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import type { Batches, Cursor } from '../../../src/model/text/batches.ts'
import { loadTokenizer } from '../../../src/model/text/load.ts'
import type { Tokenizer } from '../../../src/model/text/tokenizer.ts'
import { LocalTrainer } from '../../../src/model/training/local-trainer.ts'
import { createDefaults } from '../../../src/node/federation/create-defaults.ts'
import type { Tensor } from '../../../src/tensor.ts'
import type { Exam, Judged } from './exam.ts'

export interface MachineSettings {
  readonly model: string
  readonly loraR: number
  readonly loraAlpha: number
  readonly threads: number
}

export interface Trained {
  readonly adapter: ReadonlyMap<string, Tensor>
  /** The mean loss of a token in the last round. */
  readonly loss: number
  readonly tokens: number
}

/** The hex seed of a charter. */
export function charterSeed (seed: number): string {
  return seed.toString(16).padStart(8, '0')
}

/** The whole model on one machine: it trains what clients train together or alone, and judges every adapter. */
export class OneMachine {
  readonly config: Config
  readonly tokenizer: Tokenizer
  readonly #trainer: LocalTrainer
  readonly #trainable: AdapterTraining
  /** Values and moments before any step. */
  readonly #fresh: ReadonlyMap<string, Tensor>
  readonly #close: () => Promise<void>

  private constructor (
    known: Pick<OneMachine, 'config' | 'tokenizer'>,
    trainer: LocalTrainer,
    trainable: AdapterTraining,
    fresh: ReadonlyMap<string, Tensor>,
    close: () => Promise<void>
  ) {
    this.config = known.config
    this.tokenizer = known.tokenizer
    this.#trainer = trainer
    this.#trainable = trainable
    this.#fresh = fresh
    this.#close = close
  }

  static async open ({ model, loraR, loraAlpha, threads }: MachineSettings): Promise<OneMachine> {
    const device = await openDevice('cpu', { threads })
    try {
      const directory = await openModelDirectory(model)
      const described = modelOf(directory.config)
      const trainable = {
        r: loraR,
        alpha: loraAlpha,
        dropout: createDefaults.loraDropout,
        rslora: createDefaults.loraRslora,
        seed: charterSeed(0),
        targets: described.defaultTargets
      }
      const { beta1, beta2, epsilon, weightDecay } = createDefaults
      const optimizer = { beta1, beta2, epsilon, weightDecay }
      const trainer = await LocalTrainer.load(device, described, directory, { trainable, optimizer })
      const known = { config: directory.config, tokenizer: await loadTokenizer(model) }
      return new OneMachine(known, trainer, trainable, await trainer.parameters.state(), async () => { await device.close() })
    } catch (error) {
      await device.close()
      throw error
    }
  }

  /**
   * Trains fresh adapters for some rounds; a round takes the next batch of each of the clients, as a federation of them does. Leaves the
   * adapters in place.
   */
  async train (
    clients: readonly Batches[],
    { rounds, seed, learningRate }: { readonly rounds: number, readonly seed: number, readonly learningRate: number },
    onRound: (round: number, loss: number) => void = () => {}
  ): Promise<Trained> {
    await this.reset(seed)
    const { maxGradientNorm } = createDefaults
    const cursors: Cursor[] = clients.map(() => ({ epoch: 0, index: 0 }))
    let [loss, tokens] = [NaN, 0]
    for (let round = 0; round < rounds; round++) {
      const batches = clients.map((each, i) => {
        const { batch, next } = each.at(cursors[i]!)
        cursors[i] = next
        return batch
      })
      const { lossSum, countedTokens } = await this.#trainer.step(batches, { learningRate, maxGradientNorm })
      loss = lossSum / countedTokens
      tokens += batches.reduce((sum, { lengths }) => sum + lengths.reduce((all, length) => all + length, 0), 0)
      onRound(round, loss)
    }
    return { adapter: await this.#trainer.values(), loss, tokens }
  }

  /** Returns the adapters that training with a seed begins with. */
  initial (seed: number): ReadonlyMap<string, Tensor> {
    const { weights: { model } } = this.#trainer
    return initialAdapters(model, { ...this.#trainable, seed: charterSeed(seed) }, { first: 0, end: model.layers })
  }

  /** Puts adapters of a seed in place that have taken no step: the model is the base model. */
  async reset (seed: number): Promise<void> {
    await this.#trainer.parameters.restore(new Map([...this.#fresh, ...this.initial(seed)]))
  }

  /** Puts trained adapters in place. */
  async use (adapter: ReadonlyMap<string, Tensor>): Promise<void> {
    await this.#trainer.parameters.restore(adapter)
  }

  /** Has the model with the adapters in place answer the questions of an exam, or the first `count` of them. */
  async judge (exam: Exam, count?: number): Promise<Judged> {
    const generator = new LocalGenerator(this.#trainer.weights)
    const sampler = createSampler({ temperature: 0, seed: '0' })
    const { eosIds: stopIds } = this.tokenizer
    const answer = async (prompt: readonly number[], maxTokens: number): Promise<string> =>
      this.tokenizer.decode(await Array.fromAsync(generator.generate(prompt, sampler, { maxTokens, stopIds }))).trim()
    return await exam.judge(this.#trainer, answer, count)
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    this.#trainer.free()
    await this.#close()
  }
}

/**
 * Returns how far one adapter is from another, over the way that the other has gone from where both began. Throws where they have not the
 * same names.
 */
export function relativeDistance (
  adapter: ReadonlyMap<string, Tensor>,
  other: ReadonlyMap<string, Tensor>,
  initial: ReadonlyMap<string, Tensor>
): number {
  if (adapter.size !== other.size) throw new Error(`one adapter has ${adapter.size} tensors, and the other ${other.size}`)
  let [apart, way] = [0, 0]
  for (const [name, { data }] of adapter) {
    const [there, begun] = [other.get(name)?.data, initial.get(name)?.data]
    if (there === undefined || begun === undefined) throw new Error(`only one of two adapters has ${name}`)
    for (let i = 0; i < data.length; i++) {
      apart += (Number(data[i]) - Number(there[i])) ** 2
      way += (Number(there[i]) - Number(begun[i])) ** 2
    }
  }
  return Math.sqrt(apart / way)
}
