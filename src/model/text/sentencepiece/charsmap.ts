/** The length of the trie's length. */
const PREFIX_BYTES = 4

const UNIT_BYTES = 4

/**
 * The character replacements of a SentencePiece model: a darts-clone double array (https://github.com/s-yata/darts-clone) over UTF-8 bytes,
 * whose values point at zero-terminated replacements. Links that lead out of the array end a search.
 */
export class Charsmap {
  readonly #units: Uint32Array
  readonly #replacements: Uint8Array

  private constructor (units: Uint32Array, replacements: Uint8Array) {
    this.#units = units
    this.#replacements = replacements
  }

  /** Returns undefined when the bytes are too few for the trie that they announce. */
  static parse (bytes: Uint8Array): Charsmap | undefined {
    if (bytes.byteLength < PREFIX_BYTES) return undefined
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const trieBytes = view.getUint32(0, true)
    if (trieBytes > bytes.byteLength - PREFIX_BYTES || trieBytes % UNIT_BYTES !== 0) return undefined
    const units = Uint32Array.from({ length: trieBytes / UNIT_BYTES }, (_, i) => view.getUint32(PREFIX_BYTES + i * UNIT_BYTES, true))
    return new Charsmap(units, bytes.subarray(PREFIX_BYTES + trieBytes))
  }

  /** Returns the longest mapped text at `from`: where it ends, and what stands for it. */
  longest (text: Uint8Array, from: number): { end: number, replacement: Uint8Array } | undefined {
    let node = this.#units[0]
    let index = 0
    let found: { end: number, offset: number } | undefined
    for (let at = from; at < text.length && node !== undefined; at++) {
      index ^= offsetOf(node) ^ text[at]!
      node = this.#units[index]
      if (node === undefined || labelOf(node) !== text[at]) break
      if (hasLeaf(node)) found = { end: at + 1, offset: (this.#units[index ^ offsetOf(node)] ?? 0) & 0x7fffffff }
    }
    if (found === undefined) return undefined
    const end = this.#replacements.indexOf(0, found.offset)
    return { end: found.end, replacement: this.#replacements.subarray(found.offset, end < 0 ? undefined : end) }
  }
}

function labelOf (unit: number): number {
  return (unit & 0x800000ff) >>> 0
}

function hasLeaf (unit: number): boolean {
  return (unit & 0x100) !== 0
}

function offsetOf (unit: number): number {
  return ((unit >>> 10) << ((unit & 0x200) >>> 6)) >>> 0
}
