import { porterStem } from './porter-stemmer.ts'

/** Words of at most so many letters are not stemmed, as in the package rouge-score. */
const LONGEST_UNSTEMMED = 3

/**
 * Returns the words that ROUGE compares: runs of a to z and 0 to 9 in lower case, stemmed, as the package rouge-score makes them.
 * Letters of other scripts are no part of any word there, so that ROUGE says nothing of texts in these.
 */
export function rougeWords (text: string): string[] {
  const words = text.toLowerCase().match(/[a-z0-9]+/g) ?? []
  return words.map((word) => word.length > LONGEST_UNSTEMMED ? porterStem(word) : word)
}

/** Computes ROUGE-N: the F measure of the n-grams that two lists of words share, 0 to 1. Lin, "ROUGE" (2004). */
export function rougeN (prediction: readonly string[], reference: readonly string[], n: number): number {
  const [predicted, referred] = [ngrams(prediction, n), ngrams(reference, n)]
  let shared = 0
  for (const [gram, count] of referred.counts) shared += Math.min(count, predicted.counts.get(gram) ?? 0)
  return fMeasure(shared, predicted.total, referred.total)
}

/** Computes ROUGE-L: the F measure of the longest common subsequence of two lists of words, 0 to 1. */
export function rougeL (prediction: readonly string[], reference: readonly string[]): number {
  return fMeasure(commonSubsequence(prediction, reference), prediction.length, reference.length)
}

function ngrams (words: readonly string[], n: number): { readonly counts: ReadonlyMap<string, number>, readonly total: number } {
  const counts = new Map<string, number>()
  const total = Math.max(0, words.length - n + 1)
  for (let i = 0; i < total; i++) {
    const gram = words.slice(i, i + n).join(' ')
    counts.set(gram, (counts.get(gram) ?? 0) + 1)
  }
  return { counts, total }
}

/** Returns the length of the longest common subsequence, row by row. */
function commonSubsequence (a: readonly string[], b: readonly string[]): number {
  let row = new Uint32Array(b.length + 1)
  for (const word of a) {
    const next = new Uint32Array(b.length + 1)
    for (let j = 1; j <= b.length; j++) next[j] = word === b[j - 1] ? row[j - 1]! + 1 : Math.max(row[j]!, next[j - 1]!)
    row = next
  }
  return row[b.length]!
}

function fMeasure (shared: number, predicted: number, referred: number): number {
  const [precision, recall] = [shared / Math.max(predicted, 1), shared / Math.max(referred, 1)]
  return precision + recall === 0 ? 0 : 2 * precision * recall / (precision + recall)
}
