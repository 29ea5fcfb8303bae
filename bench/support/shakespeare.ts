import { readFile } from 'node:fs/promises'
import type { Tokenizer } from '../../src/model/text/tokenizer.ts'

/** Sequences of token ids, BOS first, one target a token after it. */
export type Sequences = number[][]

export interface ShakespeareSplit {
  /** `rounds[round]` is what this client brings to a round. */
  readonly clients: ReadonlyArray<{ readonly speakers: number, readonly tokens: number, readonly rounds: readonly Sequences[] }>
  /** Of every client's speakers, what none of them trains on. */
  readonly heldOut: Sequences
}

export interface SplitOptions {
  readonly clients: number
  readonly rounds: number
  /** Sequences that a client brings to a round. */
  readonly sequences: number
  /** Targets of a sequence. */
  readonly tokens: number
  readonly heldOutSequences: number
}

/** One speech in so many is held out. */
const HELD_OUT_EVERY = 20

/**
 * Splits tiny Shakespeare by speaker: whoever speaks most goes to the client that has the least so far. A client's speeches, one
 * after the other, are cut into sequences; where they end, they begin again.
 */
export async function splitShakespeare (
  path: string,
  tokenizer: Tokenizer,
  { clients, rounds, sequences, tokens, heldOutSequences }: SplitOptions
): Promise<ShakespeareSplit> {
  const bos = tokenizer.bosId
  if (bos === undefined) throw new Error('the tokenizer has no BOS')
  const parts = Array.from({ length: clients }, () => ({ speakers: 0, characters: 0, trained: [] as string[], heldOut: [] as string[] }))
  const spoken = [...speeches(await readFile(path, 'utf8')).values()].map((own) => ({ own, characters: own.join().length })).sort((a, b) =>
    b.characters - a.characters
  )
  for (const { own, characters } of spoken) {
    const part = parts.reduce((least, other) => other.characters < least.characters ? other : least)
    part.speakers++
    part.characters += characters
    for (const [index, speech] of own.entries()) (index % HELD_OUT_EVERY === HELD_OUT_EVERY - 1 ? part.heldOut : part.trained).push(speech)
  }
  const cut = (texts: readonly string[], count: number): { ids: number, sequences: Sequences } => {
    const ids = texts.flatMap((text) => tokenizer.encode(`${text}\n`, { addSpecialTokens: false }))
    return {
      ids: ids.length,
      sequences: Array.from({ length: count }, (_, sequence) => [
        bos,
        ...Array.from({ length: tokens }, (_, i) => ids[(sequence * tokens + i) % ids.length] as number)
      ])
    }
  }
  return {
    clients: parts.map(({ speakers, trained }) => {
      const { ids, sequences: all } = cut(trained, rounds * sequences)
      return {
        speakers,
        tokens: ids,
        rounds: Array.from({ length: rounds }, (_, round) => all.slice(round * sequences, (round + 1) * sequences))
      }
    }),
    heldOut: cut(parts.flatMap(({ heldOut }) => heldOut), heldOutSequences).sequences
  }
}

/** All that each speaker says, in order. */
function speeches (text: string): Map<string, string[]> {
  const spoken = new Map<string, string[]>()
  for (const block of text.trim().split(/\n{2,}/)) {
    const [name = '', ...lines] = block.split('\n')
    const own = spoken.get(name) ?? []
    own.push(lines.join('\n'))
    spoken.set(name, own)
  }
  return spoken
}
