/** A part of a normalised text, and the piece that it is; an unknown character has no piece. */
export interface Segment {
  readonly text: string
  readonly id: number | undefined
}

/** Divides a normalised text into pieces. */
export type Segmenter = (text: string) => Segment[]

/** The pieces that text can be divided into, with what the models need of them. */
export interface Segmentable {
  readonly id: number
  readonly text: string
  readonly score: number
  readonly kind: 'normal' | 'userDefined' | 'unused'
}

export function codePoints (text: string): number[] {
  return Array.from(text, (character) => character.codePointAt(0)!)
}
