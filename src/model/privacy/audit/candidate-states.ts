import { int32, tensor, type Tensor } from '../../../tensor.ts'
import { GraphBlockBuilder } from '../../families/builder.ts'
import { kindOf, UnsupportedModelError } from '../../families/family.ts'
import { Graph } from '../../graph/graph.ts'
import { program, type Program } from '../../graph/program.ts'
import { adapterInputs } from '../../layers/block-programs.ts'
import { Embedding } from '../../layers/embedding.ts'
import { weightProduct } from '../../layers/weight-format.ts'
import type { ModelWeights } from '../../layers/weights.ts'
import { compiled } from '../../runtime/compiled.ts'
import type { AnyTensor, Deferred, DeviceTensor, OutputRef, ProgramCall } from '../../runtime/device.ts'
import { sharedPrefixAttention } from './shared-prefix-attention.ts'

/** A token that may have stood at a position of a sequence. */
export interface Candidate {
  readonly position: number
  readonly id: number
}

/** Float32 values that one run keeps at once, about: 64 MiB of them. */
const RUN_VALUES = 2 ** 24

/** Candidates in one run, at most, and at least. */
const RUN_CANDIDATES = { most: 8192, least: 64 }

/**
 * Computes hidden states after the bottom of a model for candidates in place of the tokens of a known sequence. All candidates share the
 * keys and values of the sequence: each costs as much as one decode step after a cache that is there.
 */
export class CandidateStates {
  readonly weights: ModelWeights
  readonly #inputBlocks: number
  readonly #embedding: Embedding

  private constructor (weights: ModelWeights, inputBlocks: number, embedding: Embedding) {
    this.weights = weights
    this.#inputBlocks = inputBlocks
    this.#embedding = embedding
  }

  /**
   * Takes weights that hold the embedding and the first blocks, which stay the caller's. Throws UnsupportedModelError for a model that
   * reads prompts in both directions: a token there is seen by those before it.
   */
  static async open (weights: ModelWeights, inputBlocks: number): Promise<CandidateStates> {
    if (weights.model.prompts !== undefined)
      throw new UnsupportedModelError(
        `the audit cannot attack ${weights.model.architecture} yet, which reads prompts in both directions`,
        'audit a model that reads from left to right'
      )
    return new CandidateStates(weights, inputBlocks, await Embedding.open(weights))
  }

  /** Candidates that one run takes beside a sequence of this length. */
  candidatesPerRun (length: number): number {
    const { hiddenSize, heads, linears } = this.weights.model
    const widest = linears.reduce((most, { outputSize }) => Math.max(most, outputSize), hiddenSize)
    const most = Math.floor(RUN_VALUES / (2 * hiddenSize + 2 * widest + 2 * heads * length)) - length
    return Math.max(RUN_CANDIDATES.least, Math.min(RUN_CANDIDATES.most, most))
  }

  /** Multiplications that the states of one candidate take, about. */
  get workPerCandidate (): number {
    const { hiddenSize, linears } = this.weights.model
    return hiddenSize + this.#inputBlocks * linears.reduce((sum, { inputSize, outputSize }) => sum + inputSize * outputSize, 0)
  }

  /** Computes the embeddings [ids, hidden] of tokens. The caller frees them. */
  async embeddings (ids: readonly number[]): Promise<DeviceTensor> {
    return await this.#embedding.forward(int32([ids.length], ids))
  }

  /**
   * Prepares the hidden states [length + candidates, hidden] of the tokens of a sequence, each after those before it, and of candidates,
   * each after the tokens of the sequence before its position.
   */
  async states (sequence: readonly number[], candidates: readonly Candidate[]): Promise<Deferred> {
    const { model, rotary } = this.weights
    const ids = Int32Array.from([...sequence, ...candidates.map(({ id }) => id)])
    const calls: ProgramCall[] = [this.#embedding.call(int32([ids.length], ids))]
    if (this.#inputBlocks === 0) return { calls, output: 'hidden' }
    const places = placesOf(sequence.length, candidates)
    const shared: Record<string, AnyTensor> = {
      ...await rotary.reaching(sequence.length),
      prefix: int32([sequence.length], sequence.map((_, i) => i)),
      places,
      positions: { ...places, shape: [ids.length, model.rotary.parts ?? 1] }
    }
    for (let layer = 0; layer < this.#inputBlocks; layer++) {
      const executable = await compiled(
        this.weights.device,
        `audit.block ${this.weights.programKey(layer)}`,
        () => candidateBlockProgram(this.weights, layer)
      )
      const hidden: OutputRef = { output: layer === 0 ? 'hidden' : 'output' }
      calls.push({ executable, inputs: { ...this.weights.blockInputs(layer), ...shared, hidden } })
    }
    return { calls, output: 'output' }
  }
}

/** Lists the position of each token of a sequence, and of each candidate: int64 [rows]. */
function placesOf (length: number, candidates: readonly Candidate[]): Tensor {
  const places = new BigInt64Array(length + candidates.length)
  for (let i = 0; i < length; i++) places[i] = BigInt(i)
  for (const [i, { position }] of candidates.entries()) places[length + i] = BigInt(position)
  return tensor('int64', [places.length], places)
}

function candidateBlockProgram (weights: ModelWeights, layer: number): Program {
  const { model, rowType } = weights
  const format = weights.blockFormat(layer)
  const graph = new Graph()
  const hidden = graph.input('hidden', 'float32', ['rows', model.hiddenSize])
  const builder = new GraphBlockBuilder({
    graph,
    model,
    attention: sharedPrefixAttention(graph, model, kindOf(model, layer).window),
    product: (x, weight) => weightProduct(x, weight, format, rowType),
    adapter: adapterInputs(graph, model, weights.training(layer).adapters, false)
  })
  graph.output('output', model.block(builder, hidden))
  return program('audit-block', graph)
}
