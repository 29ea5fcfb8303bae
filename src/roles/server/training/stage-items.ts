import { joinTensorRows, tensorRows, type Tensor } from '../../../tensor.ts'
import { tokensOf, type BatchItem } from '../../middle/stage.ts'

/** The fields of an item in a message of the stage protocol, its hidden states aside. */
export interface ItemFields {
  readonly id: string
  readonly first: number
  readonly end: number
  readonly lengths: number[]
  readonly contextLengths: number[]
  readonly maskPositions: number[]
}

/** How a message says what an item is. */
export function itemFields ({ id, first, end, lengths, contexts = [] }: BatchItem): ItemFields {
  return {
    id,
    first,
    end,
    lengths: [...lengths],
    contextLengths: contexts.map(({ length }) => length),
    maskPositions: contexts.map(({ maskPosition }) => maskPosition)
  }
}

/** Joins hidden states of several items, each as the wire has them, as the rows of one. Throws RangeError where there are none. */
export function joinRows (parts: ReadonlyArray<readonly Tensor[]>): readonly Tensor[] {
  const [only, ...others] = parts
  if (only === undefined) throw new RangeError('there are no hidden states to join')
  return others.length === 0 ? only : only.map((_, index) => joinTensorRows(parts.map((part) => part[index] as Tensor)))
}

/** Cuts rows into those of several items, in order, over the same memory. */
export function splitRows (tensors: readonly Tensor[], rows: readonly number[]): Array<readonly Tensor[]> {
  let start = 0
  return rows.map((count) => {
    const end = start + count
    const own = tensors.map((part) => tensorRows(part, start, end))
    start = end
    return own
  })
}

/** The tokens of each of these items. */
export function rowsOf (items: readonly BatchItem[]): number[] {
  return items.map(({ tensors }) => tokensOf(tensors))
}

/** Splits named tensors, in order, into parts of at most this many bytes; one tensor that has more is alone. There is one part at least. */
export function partsWithin<T extends { readonly value: Tensor }> (tensors: readonly T[], mostBytes: number): T[][] {
  const parts: T[][] = [[]]
  let bytes = 0
  for (const tensor of tensors) {
    const own = tensor.value.data.byteLength
    if ((parts.at(-1)?.length ?? 0) > 0 && bytes + own > mostBytes) {
      parts.push([])
      bytes = 0
    }
    parts.at(-1)?.push(tensor)
    bytes += own
  }
  return parts
}
