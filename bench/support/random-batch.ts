import { SeededRandom } from '../../src/model/random.ts'
import type { Sequences } from './monolith.ts'

/** Batches of random token ids, the same for the same arguments. */
export function randomBatches (
  count: number,
  { sequences, tokens, vocabulary }: { sequences: number, tokens: number, vocabulary: number },
  seed: string
): Sequences[] {
  const random = new SeededRandom(seed)
  const sequence = (): number[] => Array.from({ length: tokens }, () => random.below(vocabulary))
  return Array.from({ length: count }, () => Array.from({ length: sequences }, sequence))
}
