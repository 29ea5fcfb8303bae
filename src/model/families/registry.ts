import { shown } from '../../errors.ts'
import { chatglm } from './chatglm.ts'
import { chatglm2 } from './chatglm2.ts'
import { UnsupportedModelError, type Config, type Family, type Model } from './family.ts'
import { glm } from './glm.ts'
import { glm4 } from './glm4.ts'
import { llama } from './llama.ts'
import { mistral } from './mistral.ts'
import { qwen2 } from './qwen2.ts'
import { qwen3 } from './qwen3.ts'

const families: readonly Family[] = [llama, mistral, qwen2, qwen3, glm, glm4, chatglm, chatglm2]

/** The architectures that Midspan computes. */
export const supportedArchitectures: readonly string[] = [...new Set(families.flatMap(({ architectures }) => architectures))]

/** Values of a rotary table at most, 512 MiB: a charter's configuration comes from a peer. A model for a million tokens has 2^25. */
const MAX_ROTARY_VALUES = 2 ** 27

/** Returns the family of a configuration's architecture. Throws UnsupportedModelError, with the list of supported ones, for another. */
export function familyOf (config: Config): Family {
  const named = architectureOf(config)
  const family = families.find(({ architectures, recognizes }) =>
    architectures.some((architecture) => architecture === named) && recognizes?.(config) !== false
  )
  if (family === undefined) {
    const known = supportedArchitectures.some((architecture) => architecture === named)
    throw new UnsupportedModelError(
      `the architecture ${shown(named)}${known ? ' with this configuration' : ''} is not supported${
        needsCode(config) ? ', and code of its own (auto_map) is not run' : ''
      }`,
      `supported are ${supportedArchitectures.join(', ')}`
    )
  }
  return family
}

/** Reads a configuration. Throws UnsupportedModelError for what Midspan cannot compute. */
export function modelOf (config: Config): Model {
  const { modelType, ownCode, describe } = familyOf(config)
  const architecture = architectureOf(config) as string
  if ((config.model_type ?? modelType) !== modelType)
    throw new UnsupportedModelError(
      `the configuration's model_type ${shown(config.model_type)} is not that of its architecture ${architecture}, ${modelType}`,
      'correct config.json'
    )
  if (needsCode(config) && ownCode !== true)
    throw new UnsupportedModelError(
      `the model needs code of its own (auto_map in config.json), which Midspan does not run, though its architecture is called ${architecture}`,
      'use a model whose architecture Midspan computes itself'
    )
  const model = { architecture, ...describe(config) }
  const most = Math.floor(MAX_ROTARY_VALUES / model.rotary.frequencies.length)
  if (model.maxPositions > most)
    throw new UnsupportedModelError(`sequences of such heads have ${most} positions at most, not ${model.maxPositions}`)
  return model
}

function architectureOf ({ architectures }: Config): unknown {
  return Array.isArray(architectures) ? architectures[0] : undefined
}

function needsCode ({ auto_map: code }: Config): boolean {
  return code !== undefined && code !== null
}
