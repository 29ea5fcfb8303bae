const ROOT = 0

/** More than any code point or byte. */
const SYMBOLS = 0x110000

/** Words of small numbers (bytes or code points) with a value each, walked one symbol at a time. */
export class Trie {
  /** From a node and a symbol to the next node. One flat map takes a fraction of the memory of a map a node. */
  readonly #edges = new Map<number, number>()
  readonly #values: Array<number | undefined> = [undefined]

  add (word: Iterable<number>, value: number): void {
    let node = ROOT
    for (const symbol of word) {
      const key = node * SYMBOLS + symbol
      let next = this.#edges.get(key)
      if (next === undefined) {
        next = this.#values.push(undefined) - 1
        this.#edges.set(key, next)
      }
      node = next
    }
    this.#values[node] = value
  }

  /** Calls `found` with the end and the value of each word that starts at `from`, the shortest first. */
  walk (text: ArrayLike<number>, from: number, found: (end: number, value: number) => void): void {
    let node: number | undefined = ROOT
    for (let at = from; at < text.length;) {
      node = this.#edges.get(node * SYMBOLS + text[at]!)
      if (node === undefined) return
      at++
      const value = this.#values[node]
      if (value !== undefined) found(at, value)
    }
  }

  /** Returns the end of the longest word that starts at `from`, if there is one. */
  longest (text: ArrayLike<number>, from: number): number | undefined {
    let longest: number | undefined
    this.walk(text, from, (end) => { longest = end })
    return longest
  }
}
