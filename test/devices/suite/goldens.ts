import { goldenNames } from '../../helpers/golden.ts'

/**
 * Those whose hidden states are the same whether rows come at once or piece by piece: all but that whose angles depend on the length that a
 * sequence has come to.
 */
export const cachedGoldens = goldenNames.filter((name) => name !== 'llama/rope-dynamic')
