import { utf8 } from './normalizer.ts'
import { codePoints, type Segment, type Segmentable, type Segmenter } from './segment.ts'
import { Trie } from './trie.ts'

/** What an unknown character costs beyond the least likely piece (kUnkPenalty). */
const UNKNOWN_PENALTY = 10

/** SentencePiece starts the search for the highest score at FLT_MIN, so that it is never negative. */
const LEAST_HIGHEST = 2 ** -126

/**
 * Returns the likeliest division of a text by its pieces' log probabilities (unigram::Model::EncodeOptimized of SentencePiece). Sums are
 * rounded to float32 as there, so that ties fall alike.
 */
export function unigramSegmenter (pieces: readonly Segmentable[]): Segmenter {
  const normal = pieces.filter(({ kind }) => kind === 'normal').map(({ score }) => score)
  const lowest = normal.reduce((least, score) => Math.min(least, score), Infinity)
  const highest = normal.reduce((most, score) => Math.max(most, score), LEAST_HIGHEST)
  const unknownScore = Math.fround(lowest - UNKNOWN_PENALTY)
  const trie = new Trie()
  const scores = new Map<number, number>()
  for (const { id, text, score, kind } of pieces) {
    if (kind === 'unused') continue
    trie.add(codePoints(text), id)
    // A text defined by the user is always chosen.
    scores.set(id, kind === 'userDefined' ? Math.fround(utf8(text).length * highest) - 0.1 : score)
  }

  return (text) => {
    const characters = codePoints(text)
    const best = new Float32Array(characters.length + 1)
    const startOf = new Int32Array(characters.length + 1).fill(-1)
    const idAt: Array<number | undefined> = []
    const offer = (start: number, end: number, id: number | undefined, score: number): void => {
      const total = best[start]! + score
      if (startOf[end] !== -1 && total <= best[end]!) return
      best[end] = total
      startOf[end] = start
      idAt[end] = id
    }
    for (let start = 0; start < characters.length; start++) {
      let known = false
      trie.walk(characters, start, (end, id) => {
        offer(start, end, id, scores.get(id)!)
        if (end === start + 1) known = true
      })
      if (!known) offer(start, start + 1, undefined, unknownScore)
    }
    const segments: Segment[] = []
    for (let end = characters.length; end > 0; end = startOf[end]!) {
      segments.push({ text: String.fromCodePoint(...characters.slice(startOf[end], end)), id: idAt[end] })
    }
    return segments.reverse()
  }
}
