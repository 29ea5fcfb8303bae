import { headWeights, spanTensors, UnsupportedModelError, type Config, type Family, type Model, type Span } from './family.ts'
import { chatglm } from './chatglm.ts'
import { chatglm2 } from './chatglm2.ts'
import { glm } from './glm.ts'
import { glm4 } from './glm4.ts'
import { llama } from './llama.ts'
import { mistral } from './mistral.ts'
import { qwen2 } from './qwen2.ts'
import { qwen3 } from './qwen3.ts'

export { contextFault, PromptError, type PromptContext, type PromptReading } from './prompts.ts'
export { checkModel, checkTiedHead, checkWeights, modelWeights, type TensorListing } from './check.ts'
export { blockTensor, blockWeights, embeddingWeight, headWeight, headWeights, spanTensors, UnsupportedModelError, type Config, type Family, type LinearModule, type Model, type Norm, type Span, type WeightSpec } from './family.ts'

const families: readonly Family[] = [llama, mistral, qwen2, qwen3, glm, glm4, chatglm, chatglm2]

/** The architectures that Midspan computes. */
export const supportedArchitectures: readonly string[] = [...new Set(families.flatMap(({ architectures }) => architectures))]

/** The family of a configuration's architecture. Throws UnsupportedModelError, with the list of supported ones, for another. */
export function familyOf (config: Config): Family {
  const named: unknown = Array.isArray(config.architectures) ? config.architectures[0] : undefined
  const family = families.find(({ architectures, recognizes }) => architectures.some(architecture => architecture === named) && recognizes?.(config) !== false)
  if (family === undefined) throw new UnsupportedModelError(`the architecture ${JSON.stringify(named)}${supportedArchitectures.some(known => known === named) ? ' with this configuration' : ''} is not supported`, `supported are ${supportedArchitectures.join(', ')}`)
  return family
}

/** Values of a rotary table at most, 512 MiB: a charter's configuration comes from a peer. A model for a million tokens has 2^25. */
const MAX_ROTARY_VALUES = 2 ** 27

/** Reads a configuration. Throws UnsupportedModelError for what Midspan cannot compute. */
export function modelOf (config: Config): Model {
  const model = familyOf(config).describe(config)
  const most = Math.floor(MAX_ROTARY_VALUES / model.rotary.frequencies.length)
  if (model.maxPositions > most) throw new UnsupportedModelError(`sequences of such heads have ${most} positions at most, not ${model.maxPositions}`)
  return model
}

/** How many blocks a client computes before and after the middle. */
export interface EndBlocks {
  readonly inputBlocks: number
  readonly outputBlocks: number
}

/** The checkpoint's names of what a client with this partition needs; a tied embedding once. */
export function endTensors (config: Config, { inputBlocks, outputBlocks }: EndBlocks): string[] {
  const model = modelOf(config)
  return [...new Set([
    model.embedding,
    ...spanTensors(model, { first: 0, end: inputBlocks }),
    ...spanTensors(model, { first: model.layers - outputBlocks, end: model.layers }),
    ...headWeights(model).map(({ name }) => name)
  ])]
}

/** The checkpoint's names of a middle span's weights. */
export function middleTensors (config: Config, span: Span): string[] {
  return spanTensors(modelOf(config), span)
}
