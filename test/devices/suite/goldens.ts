import { modelOf } from '../../../src/model/families/index.ts'
import { goldenNames, readModelGolden } from '../../helpers/golden.ts'

/** The goldens of what Midspan computes: every family, with its features. */
export const modelGoldens = goldenNames.filter((name) => {
  try {
    modelOf(readModelGolden(name).config)
    return true
  } catch {
    return false
  }
})

/** Heads that onnxruntime's cached attention cannot compute; angles that depend on the length that a sequence has come to. */
const UNCACHED = ['llama/theta-500000', 'llama/rope-dynamic']

/** Those whose hidden states are the same whether rows come at once or piece by piece. */
export const cachedGoldens = modelGoldens.filter((name) => !UNCACHED.includes(name))
