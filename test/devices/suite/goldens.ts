import { goldenNames } from '../../helpers/golden.ts'

/** Heads that onnxruntime's cached attention cannot compute; angles that depend on the length that a sequence has come to. */
const UNCACHED = ['llama/theta-500000', 'llama/rope-dynamic']

/** Those whose hidden states are the same whether rows come at once or piece by piece. */
export const cachedGoldens = goldenNames.filter((name) => !UNCACHED.includes(name))
