import type { Prior, Reading } from './prior.ts'

/** Tokens that a prediction looks back on, at most: with little text, longer contexts are seen once. */
const CONTEXT_TOKENS = 3

interface Followers {
  total: number
  readonly counts: Map<number, number>
}

/**
 * Predicts tokens by how often they followed the last ones in a text: Witten and Bell's interpolation (1991) of contexts of three tokens
 * down to none, and of equal probabilities. A context of n tokens that was followed by d different ones t times gives t / (t + d) to what
 * it counted, and the rest to the shorter context.
 */
export class NgramPrior implements Prior {
  readonly kind = 'ngram'
  readonly about: string
  readonly #vocabulary: number
  /** By the number of tokens in the context. */
  readonly #contexts = Array.from({ length: CONTEXT_TOKENS + 1 }, () => new Map<string, Followers>())

  constructor (texts: ReadonlyArray<ArrayLike<number>>, vocabulary: number, about: string) {
    this.about = about
    this.#vocabulary = vocabulary
    for (const ids of texts) {
      for (let i = 0; i < ids.length; i++) {
        for (let length = 0; length <= Math.min(CONTEXT_TOKENS, i); length++) {
          const key = keyOf(ids, i, length)
          const found = this.#contexts[length]!.get(key) ?? { total: 0, counts: new Map<number, number>() }
          found.total++
          found.counts.set(ids[i]!, (found.counts.get(ids[i]!) ?? 0) + 1)
          this.#contexts[length]!.set(key, found)
        }
      }
    }
  }

  async * next (sequence: readonly number[]): AsyncGenerator<Float32Array> {
    for (let i = 1; i < sequence.length; i++) yield await Promise.resolve(this.after(sequence, i))
  }

  async open (): Promise<Reading> {
    const text: number[] = []
    return await Promise.resolve({
      read: async (position, ids) => {
        text.length = position
        return await Promise.resolve(ids.map((id) => this.after(text, text.push(id))))
      },
      free () {}
    })
  }

  /** Computes the logarithms of the probabilities [vocabulary] of each token at a position of a sequence, after those before it. */
  after (sequence: ArrayLike<number>, position: number): Float32Array {
    const probabilities = new Float64Array(this.#vocabulary).fill(1 / this.#vocabulary)
    for (let length = 0; length <= Math.min(CONTEXT_TOKENS, position); length++) {
      const found = this.#contexts[length]!.get(keyOf(sequence, position, length))
      if (found === undefined) continue
      const { total, counts } = found
      const all = total + counts.size
      for (let id = 0; id < probabilities.length; id++) probabilities[id]! *= counts.size / all
      for (const [id, count] of counts) if (id < probabilities.length) probabilities[id]! += count / all
    }
    return Float32Array.from(probabilities, Math.log)
  }
}

/** Names the `length` tokens before a position. */
function keyOf (ids: ArrayLike<number>, position: number, length: number): string {
  let key = ''
  for (let i = position - length; i < position; i++) key += `${ids[i]},`
  return key
}
