import type { ChatRequest } from '../../api/openai/chat.ts'
import type { CompletionRequest } from '../../api/openai/completions.ts'
import { MAX_CHOICES } from '../../api/openai/fields.ts'
import type { Model } from '../../api/openai/models.ts'
import type { GivenParameters } from '../../api/operations.ts'
import { RequestError } from './errors.ts'

type Generate = GivenParameters<'generate'>

/** What a text continues, as the operation takes it. */
export type Input = Pick<Generate, 'prompt' | 'messages' | 'ids' | 'tools' | 'toolChoice' | 'jsonSchema'>

/** The seeds of the choices of a request follow from its own: they stay whole numbers that a float64 holds. */
const SEEDS = 2 ** 53

/** Returns the parameters of each text that a request asks for: `n` for each input, one input after another. Throws RequestError. */
export function parametersOf (
  request: ChatRequest | CompletionRequest,
  inputs: readonly Input[],
  more: Pick<Generate, 'maxTokens' | 'logprobs' | 'ignoreEos'>
): readonly Generate[] {
  const { temperature, top_p: topP, top_k: topK = 0, seed, n, stop, stream, stream_options: streamOptions } = request
  if (streamOptions !== undefined && !stream)
    throw new RequestError(400, 'invalid_value', 'stream_options is for requests with stream alone', { param: 'stream_options' })
  if (inputs.length * n > MAX_CHOICES)
    throw new RequestError(400, 'invalid_value', `n is too large: ${inputs.length} prompts with ${n} choices each are more than ${MAX_CHOICES} texts`, {
      param: 'n'
    })
  const shared: Generate = {
    ...more,
    temperature,
    topP,
    topK: topK > 0 ? topK : undefined,
    stop: typeof stop === 'string' ? [stop] : stop,
    logitBias: request.logit_bias,
    presencePenalty: request.presence_penalty,
    frequencyPenalty: request.frequency_penalty
  }
  return inputs.flatMap((input) => Array.from({ length: n }, (_, i) => ({
    ...shared,
    ...input,
    ...(seed === undefined ? {} : { seed: (seed + i) % SEEDS })
  })))
}

/** Throws RequestError unless a request names the model. */
export function checkModel (name: string, { id }: Model): void {
  if (name !== id) throw new RequestError(404, 'model_not_found', `the model ${JSON.stringify(name)} is not served; this one is: ${id}`, { param: 'model' })
}
