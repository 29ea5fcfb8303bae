import { randomInt } from 'node:crypto'
import type { ParametersOf } from '../../../api/operations.ts'
import type { SamplingOptions } from '../../../model/generation/sampling.ts'

type GivenSampling = Pick<
  ParametersOf<'generate'>,
  'temperature' | 'topK' | 'topP' | 'logitBias' | 'presencePenalty' | 'frequencyPenalty' | 'seed'
>

/** Returns how tokens are chosen, as an operation was asked. Without a seed, one is drawn. */
export function samplingOf (
  { temperature, topK, topP, logitBias, presencePenalty, frequencyPenalty, seed = randomInt(2 ** 32) }: GivenSampling
): SamplingOptions {
  return {
    temperature,
    seed: String(seed),
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
    ...(logitBias === undefined ? {} : { logitBias: new Map(Object.entries(logitBias).map(([id, bias]) => [Number(id), bias])) }),
    ...(presencePenalty === undefined ? {} : { presencePenalty }),
    ...(frequencyPenalty === undefined ? {} : { frequencyPenalty })
  }
}
