/** The characters that Python calls white space. */
const WHITE_SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/

/** ASCII punctuation, as Python's string.punctuation has it. */
const PUNCTUATION = /[!-/:-@[-`{-~]/g

/** English articles as whole words. A word's letters are those of any script. */
const ARTICLES = /(?<![\p{L}\p{N}_])(a|an|the)(?![\p{L}\p{N}_])/gu

/**
 * Returns the words of an answer as SQuAD's evaluation compares them: in lower case, without punctuation and English articles.
 * Rajpurkar et al., "SQuAD" (2016), evaluation script of version 2.0.
 */
export function answerWords (answer: string): string[] {
  return answer.toLowerCase().replace(PUNCTUATION, '').replace(ARTICLES, ' ').split(WHITE_SPACE).filter((word) => word !== '')
}

/** Returns 1 where two answers have the same words in the same order, and 0 elsewhere. */
export function exactMatch (prediction: string, reference: string): number {
  return answerWords(prediction).join(' ') === answerWords(reference).join(' ') ? 1 : 0
}

/** Returns the F measure of the words that two answers share, 0 to 1; of answers without words, 1 where both have none. */
export function tokenF1 (prediction: string, reference: string): number {
  const [predicted, referred] = [answerWords(prediction), answerWords(reference)]
  if (predicted.length === 0 || referred.length === 0) return predicted.length === referred.length ? 1 : 0
  const left = new Map<string, number>()
  for (const word of referred) left.set(word, (left.get(word) ?? 0) + 1)
  let shared = 0
  for (const word of predicted) {
    const count = left.get(word) ?? 0
    if (count === 0) continue
    shared++
    left.set(word, count - 1)
  }
  if (shared === 0) return 0
  const [precision, recall] = [shared / predicted.length, shared / referred.length]
  return 2 * precision * recall / (precision + recall)
}
