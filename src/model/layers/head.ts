import { int32, type Tensor } from '../../tensor.ts'
import { headWeights, type Model } from '../families/index.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, DeviceTensor, Executable, ProgramCall, OutputRef } from '../runtime/device.ts'
import { IGNORED_TARGET, type Batch } from '../text/batches.ts'
import { GradientSum } from './gradient-sum.ts'
import { logitsProgram, lossGradientProgram, lossProgram } from './head-programs.ts'
import { checkTokens } from './vocabulary-check.ts'
import { endFormat } from './weight-format.ts'
import type { ModelWeights } from './weights.ts'

/** The most logits of one run, 128 MiB of them; a run for gradients holds several such tensors. More rows take several runs. */
const LOGITS_PER_RUN = 2 ** 25

export interface Loss {
  /** Cross-entropy summed over the counted tokens, in nats. */
  readonly lossSum: number
  readonly countedTokens: number
}

export interface HeadGradients extends Loss {
  /** The gradients of `lossSum`: that of `hidden` [rows, hidden], and those of trained tensors by their names. */
  readonly gradients: Map<string, DeviceTensor>
}

interface HeadExecutables {
  readonly logits: Executable
  readonly loss: Executable
  readonly gradient: Executable
}

/** Computes the final norm and the head: from hidden states to logits, or to a loss and its gradients. */
export class Head {
  readonly #weights: ModelWeights
  readonly #executables: HeadExecutables
  readonly #parameters: readonly string[]

  constructor (weights: ModelWeights, executables: HeadExecutables, parameters: readonly string[]) {
    this.#weights = weights
    this.#executables = executables
    this.#parameters = parameters
  }

  /** Compiles the programs. The final norm and the head must be among the weights by the time that they run. */
  static async open (weights: ModelWeights): Promise<Head> {
    const { device, model, trainable, key } = weights
    const format = endFormat(weights.format)
    const parameters = trainable === 'weights' ? headWeights(model).map(({ name }) => name) : []
    const [logits, loss, gradient] = await Promise.all([
      compiled(device, `head ${key}`, () => logitsProgram(model, format)),
      compiled(device, `head.loss ${key}`, () => lossProgram(model, format)),
      compiled(device, `head.gradient ${key}`, () => lossGradientProgram(model, format, parameters))
    ])
    return new Head(weights, { logits, loss, gradient }, parameters)
  }

  /** Computes logits, float32 [taken, vocabulary], of some rows of [rows, hidden]. No row is taken twice. */
  async logits (hidden: AnyTensor, taken: readonly number[]): Promise<Tensor> {
    const { logits } = await this.#executables.logits.run(this.#logitsInputs(hidden, hidden.shape[0]!, taken))
    return logits as Tensor
  }

  /** Prepares the logits of some of `count` rows as a call in a sequence that generates. The call's output is `logits`. */
  async generationCall (hidden: AnyTensor | OutputRef, count: number, taken: readonly number[]): Promise<ProgramCall> {
    const { model } = this.#weights
    const format = endFormat(this.#weights.format)
    const executable = this.#weights.fixes(format)
      ? await this.#weights.fixed('head', () => logitsProgram(model, format, 'int8'), this.#inputs())
      : this.#executables.logits
    return { executable, inputs: this.#logitsInputs(hidden, count, taken) }
  }

  #logitsInputs<T extends AnyTensor | OutputRef> (hidden: T, count: number, taken: readonly number[]): Record<string, T | AnyTensor> {
    const { taken: rows, inverse } = rowInputs(taken.map((row) => ({ row, target: 0 })), count)
    return { hidden, taken: rows, inverse, ...this.#inputs() }
  }

  /** Computes the loss of [rows, hidden] over the targets that count. Throws VocabularyError. */
  async loss (hidden: AnyTensor, targets: Batch['targets']): Promise<Loss> {
    const counted = countedRows(this.#weights.model, targets)
    let lossSum = 0
    for (const taken of chunks(counted, this.#rowsPerRun)) {
      const { loss } = await this.#executables.loss.run({ hidden, ...rowInputs(taken, hidden.shape[0]!), ...this.#inputs() })
      lossSum += scalar(loss)
    }
    return { lossSum, countedTokens: counted.length }
  }

  /** Computes the loss of each sequence of [rows, hidden] over its targets that count. Throws VocabularyError. */
  async losses (hidden: AnyTensor, targets: Batch['targets']): Promise<Loss[]> {
    const counted = countedRows(this.#weights.model, targets)
    const values: number[] = []
    for (const taken of chunks(counted, this.#rowsPerRun)) {
      const { losses } = await this.#executables.loss.run({ hidden, ...rowInputs(taken, hidden.shape[0]!), ...this.#inputs() })
      values.push(...(losses as Tensor).data as Float32Array)
    }
    let at = 0
    return targets.map((sequence) => {
      const countedTokens = sequence.filter((target) => target !== IGNORED_TARGET).length
      const lossSum = values.slice(at, at += countedTokens).reduce((sum, value) => sum + value, 0)
      return { lossSum, countedTokens }
    })
  }

  /** Computes the loss with its gradients, which the caller frees. Throws VocabularyError. */
  async gradients (hidden: DeviceTensor, targets: Batch['targets']): Promise<HeadGradients> {
    const { device } = this.#weights
    using sum = new GradientSum(device)
    const counted = countedRows(this.#weights.model, targets)
    const names = ['hidden', ...this.#parameters]
    let lossSum = 0
    for (const taken of chunks(counted, this.#rowsPerRun)) {
      const results = await this.#executables.gradient.run({ hidden, ...rowInputs(taken, hidden.shape[0]!), ...this.#inputs() }, {
        keep: names.map((name) => `${name}.gradient`)
      })
      lossSum += scalar(results.loss)
      await sum.add(new Map(names.map((name) => [name, results[`${name}.gradient`] as DeviceTensor])))
    }
    if (!sum.gradients.has('hidden')) sum.gradients.set('hidden', await device.zeros('float32', hidden.shape))
    return { lossSum, countedTokens: counted.length, gradients: sum.take() }
  }

  get #rowsPerRun (): number {
    return Math.max(1, Math.floor(LOGITS_PER_RUN / this.#weights.model.vocabularySize))
  }

  #inputs (): Record<string, DeviceTensor> {
    return this.#weights.endInputs(headWeights(this.#weights.model))
  }
}

interface CountedRow {
  readonly row: number
  readonly target: number
}

function countedRows (model: Model, targets: Batch['targets']): CountedRow[] {
  const counted = targets.flat().map((target, row) => ({ row, target })).filter(({ target }) => target !== IGNORED_TARGET)
  checkTokens(model, counted.map(({ target }) => target))
  return counted
}

function rowInputs (taken: readonly CountedRow[], rows: number): Record<'taken' | 'inverse' | 'targets', Tensor> {
  const inverse = new Int32Array(rows).fill(-1)
  for (const [i, { row }] of taken.entries()) inverse[row] = i
  return {
    taken: int32([taken.length], taken.map(({ row }) => row)),
    inverse: int32([rows], inverse),
    targets: int32([taken.length], taken.map(({ target }) => target))
  }
}

function chunks<T> (values: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(values.length / size) }, (_, i) => values.slice(i * size, (i + 1) * size))
}

function scalar (value: AnyTensor | undefined): number {
  return Number((value as Tensor).data[0])
}
