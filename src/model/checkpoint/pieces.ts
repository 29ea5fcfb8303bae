import type { FileHandle } from 'node:fs/promises'
import { readFully } from './atomic.ts'
import { watched } from './read-ahead.ts'

/** A piece is converted while it is still in the processor's cache. */
const pieceBytes = 2 * 1024 * 1024

/** Pieces that are read while one is used, so that the disk waits for nobody. */
const readsAhead = 3

/** Buffers of whole pieces that readers are done with: fresh memory costs as much as reading does. */
const spare: Array<Uint8Array<ArrayBuffer>> = []
const maxSpare = 8

interface Piece {
  readonly offset: number
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly whole: boolean
}

export interface PieceOptions {
  /** Where the range is to lie in memory; without it, each piece lies in a buffer that is used again. */
  readonly target?: Uint8Array<ArrayBuffer> | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * Reads `bytes` of a file from `start` in pieces of whole elements, several at a time, and calls `use` with each in order, with its offset
 * in the range. Without a target a piece is valid until `use` returns. Returns false where the file ends first.
 */
export async function readPieces (handle: FileHandle, start: number, bytes: number, use: (piece: Uint8Array, offset: number) => void, { target, signal }: PieceOptions = {}): Promise<boolean> {
  const read = async (offset: number): Promise<Piece> => {
    const length = Math.min(pieceBytes, bytes - offset)
    const into = target?.subarray(offset, offset + length) ?? borrow(length)
    return { offset, bytes: into, whole: await readFully(handle, into, start + offset) }
  }
  const underWay: Array<Promise<Piece>> = []
  try {
    for (let next = 0; next < bytes || underWay.length > 0;) {
      signal?.throwIfAborted()
      for (; next < bytes && underWay.length <= readsAhead; next += pieceBytes) underWay.push(watched(read(next)))
      const piece = await underWay[0]!
      void underWay.shift()
      if (!piece.whole) return false
      use(piece.bytes, piece.offset)
      if (target === undefined) giveBack(piece.bytes)
    }
    return true
  } finally {
    await Promise.allSettled(underWay) // the file is closed next
  }
}

function borrow (length: number): Uint8Array<ArrayBuffer> {
  if (length <= pieceBytes / 2) return new Uint8Array(length)
  return (spare.pop() ?? new Uint8Array(pieceBytes)).subarray(0, length)
}

function giveBack ({ buffer }: Uint8Array<ArrayBuffer>): void {
  if (buffer.byteLength === pieceBytes && spare.length < maxSpare) spare.push(new Uint8Array(buffer))
}
