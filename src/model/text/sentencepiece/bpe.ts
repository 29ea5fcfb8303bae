import TinyQueue from 'tinyqueue'
import { codePoints, type Segment, type Segmentable, type Segmenter } from './segment.ts'
import { Trie } from './trie.ts'

/** A run of the text, in a doubly linked list; empty once its left neighbour has taken it up. -1 is no neighbour. */
interface Run {
  text: string
  previous: number
  next: number
  /** A text defined by the user never merges. */
  readonly frozen: boolean
}

interface Pair {
  readonly left: number
  readonly right: number
  readonly score: number
  readonly text: string
}

/**
 * Byte pair encoding by scores (bpe::Model of SentencePiece): of all neighbours that make a piece together, the pair with the highest score
 * merges, the leftmost of several, until none is left. A piece that is not to be used comes apart again.
 */
export function bpeSegmenter (pieces: readonly Segmentable[]): Segmenter {
  const byText = new Map(pieces.map((piece) => [piece.text, piece]))
  const userDefined = new Trie()
  for (const { text, id, kind } of pieces) if (kind === 'userDefined') userDefined.add(codePoints(text), id)

  return (text) => {
    const runs = split(text, userDefined)
    const halves = new Map<string, readonly [string, string]>()
    const queue = new TinyQueue<Pair>([], (a, b) => b.score - a.score || a.left - b.left)
    const offer = (left: number, right: number): void => {
      const [a, b] = [runs[left], runs[right]]
      if (a === undefined || b === undefined || a.frozen || b.frozen) return
      const piece = byText.get(a.text + b.text)
      if (piece === undefined) return
      queue.push({ left, right, score: piece.score, text: piece.text })
      if (piece.kind === 'unused') halves.set(piece.text, [a.text, b.text])
    }
    for (let i = 1; i < runs.length; i++) offer(i - 1, i)
    for (let pair = queue.pop(); pair !== undefined; pair = queue.pop()) {
      const [left, right] = [runs[pair.left]!, runs[pair.right]!]
      if (left.text === '' || right.text === '' || left.text.length + right.text.length !== pair.text.length) continue
      left.text = pair.text
      left.next = right.next
      if (right.next >= 0) runs[right.next]!.previous = pair.left
      right.text = ''
      offer(left.previous, pair.left)
      offer(pair.left, left.next)
    }
    const apart = (text: string): Segment[] => {
      const piece = byText.get(text)
      const parts = piece?.kind === 'unused' ? halves.get(text) : undefined
      return parts === undefined ? [{ text, id: piece?.id }] : parts.flatMap(apart)
    }
    return runs.filter(({ text }) => text !== '').flatMap(({ text }) => apart(text))
  }
}

/** Returns the characters of a text, and the user's texts whole. */
function split (text: string, userDefined: Trie): Run[] {
  const characters = codePoints(text)
  const runs: Run[] = []
  for (let from = 0; from < characters.length;) {
    const frozenEnd = userDefined.longest(characters, from)
    const end = frozenEnd ?? from + 1
    runs.push({
      text: String.fromCodePoint(...characters.slice(from, end)),
      previous: runs.length - 1,
      next: end < characters.length ? runs.length + 1 : -1,
      frozen: frozenEnd !== undefined
    })
    from = end
  }
  return runs
}
