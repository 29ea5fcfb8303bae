import { mkdir, rename, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'
import { narrow } from '../../model/checkpoint/conversion.ts'
import type { TensorSpec } from '../../model/checkpoint/header.ts'
import { writeSafetensorsFrom } from '../../model/checkpoint/safetensors.ts'
import { blockTensor, blockWeights, headWeights, modelOf, type Model } from '../../model/families/index.ts'
import { SeededRandom } from '../../model/random.ts'
import { openDevice } from '../../model/runtime/worker-device.ts'
import { huggingFaceEngine } from '../../model/text/huggingface-engine.ts'
import { Tokenizer } from '../../model/text/tokenizer.ts'
import { learningRateAt } from '../../model/training/learning-rate.ts'
import type { TrainingBatch } from '../../model/training/local-trainer.ts'
import { elementCount, float32, type Tensor } from '../../tensor.ts'
import { answer, commonKnowledge, pretrainingDocuments } from './corpus.ts'
import { greedyAnswers, loadLocalModel } from './local-model.ts'
import { bosId, eosId, makeTokenizer, specialTokens } from './tokenizer.ts'

/**
 * Makes the demo's model from nothing: writes the text, learns a tokenizer and trains all weights with Midspan's own trainer.
 * Run it with `npm run demo:pretrain [-- DIRECTORY]`; it takes a few minutes. The same seed gives the same model on the same machine.
 */

const seed = '1'
/** Without scaling, weights of this size keep the hidden states of a model this narrow near one; the usual 0.02 hardly learns. */
const initialDeviation = 0.1
const documentsPerStep = 32
const schedule = { name: 'cosine', warmupRounds: 50, totalRounds: 900 } as const
const learningRate = 4e-3
const stepsPerReport = 50

const shape = {
  hidden_size: 64,
  intermediate_size: 176,
  num_hidden_layers: 6,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16
}

function configOf (vocabularySize: number): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: vocabularySize,
    ...shape,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    tie_word_embeddings: true,
    attention_bias: false,
    mlp_bias: false,
    bos_token_id: bosId,
    eos_token_id: eosId,
    torch_dtype: 'float16',
    initializer_range: initialDeviation
  }
}

const tokenizerConfig = {
  tokenizer_class: 'PreTrainedTokenizerFast', unk_token: specialTokens[0], bos_token: specialTokens[bosId], eos_token: specialTokens[eosId],
  model_max_length: 256, clean_up_tokenization_spaces: false
}
const generationConfig = { bos_token_id: bosId, eos_token_id: eosId }

/** Draws random weights by their names in the checkpoint: normal ones, and ones for norms. */
function initialWeights (model: Model): Map<string, Tensor> {
  const random = new SeededRandom(`weights ${seed}`)
  const normal = (shape: readonly number[]): Tensor =>
    float32(shape, Float32Array.from({ length: elementCount(shape) }, () => initialDeviation * gaussian(random)))
  const ones = (shape: readonly number[]): Tensor => float32(shape, new Float32Array(elementCount(shape)).fill(1))
  const weights = new Map([
    [model.embedding, normal([model.vocabularySize, model.hiddenSize])],
    ...headWeights(model).filter(({ shape }) => shape.length === 1).map(({ name, shape }) => [name, ones(shape)] as const)
  ])
  for (let layer = 0; layer < model.layers; layer++) {
    for (const { name, shape } of blockWeights(model))
      weights.set(blockTensor(model, layer, name), shape.length === 1 ? ones(shape) : normal(shape))
  }
  return weights
}

/** Returns one standard normal number (Box and Muller). */
function gaussian (random: SeededRandom): number {
  return Math.sqrt(-2 * Math.log(1 - random.nextFloat())) * Math.cos(2 * Math.PI * random.nextFloat())
}

function nextBatch (documents: Generator<string, never>, tokenizer: Tokenizer): TrainingBatch {
  const sequences = Array.from({ length: documentsPerStep }, () => [...tokenizer.encode(documents.next().value), eosId])
  return { ids: sequences.map((ids) => ids.slice(0, -1)), targets: sequences.map((ids) => ids.slice(1)) }
}

async function writeModel (
  directory: string,
  files: Readonly<Record<string, object>>,
  weights: ReadonlyMap<string, Tensor>
): Promise<void> {
  await mkdir(directory, { recursive: true })
  for (const [name, value] of Object.entries(files)) {
    const path = join(directory, name)
    await writeFile(`${path}.new`, `${JSON.stringify(value, null, name === 'tokenizer.json' ? 0 : 2)}\n`)
    await rename(`${path}.new`, path)
  }
  const specs = new Map([...weights].map(([name, { shape }]): [string, TensorSpec] => [name, { dtype: 'F16', shape }]))
  await writeSafetensorsFrom(
    join(directory, 'model.safetensors'),
    specs,
    (name) => [narrow('F16', weights.get(name)!.data as Float32Array)]
  )
}

async function pretrain (directory: string): Promise<void> {
  const tokenizerFile = makeTokenizer()
  const tokenizer = new Tokenizer(huggingFaceEngine(tokenizerFile, tokenizerConfig), { tokenizerConfig })
  const config = configOf(Object.keys(tokenizerFile.model.vocab).length)
  const model = modelOf(config)
  const weights = initialWeights(model)

  const device = await openDevice('cpu', { threads: Math.min(2, availableParallelism()) })
  const source = { read: async (name: string) => weights.get(name)! } // each is read once, and then the trainer's
  const { trainer, ends } = await loadLocalModel(device, model, source, 'weights', {
    beta1: 0.9,
    beta2: 0.98,
    epsilon: 1e-8,
    weightDecay: 0
  })
  const documents = pretrainingDocuments(seed)
  const started = performance.now()
  for (let step = 1; step <= schedule.totalRounds; step++) {
    const { lossSum, countedTokens } = await trainer.step([nextBatch(documents, tokenizer)], {
      learningRate: learningRateAt(schedule, learningRate, step),
      maxGradientNorm: 1
    })
    if (step % stepsPerReport === 0) {
      console.log(
        `step ${step} of ${schedule.totalRounds}: loss ${(lossSum / countedTokens).toFixed(3)}, ${
          ((performance.now() - started) / 1000).toFixed(0)
        } s`
      )
    }
  }
  const common = commonKnowledge()
  const answers = await greedyAnswers(ends, tokenizer, common.map(({ ailment }) => ailment))
  console.log(`common knowledge answered: ${common.filter(({ remedy }, i) => answers[i] === answer(remedy)).length} of ${common.length}`)
  await writeModel(directory, {
    'config.json': config,
    'generation_config.json': generationConfig,
    'tokenizer.json': tokenizerFile,
    'tokenizer_config.json': tokenizerConfig
  }, await trainer.values())
  await device.close()
  console.log(`wrote ${directory}`)
}

await pretrain(resolve(process.argv[2] ?? join(import.meta.dirname, 'model')))
