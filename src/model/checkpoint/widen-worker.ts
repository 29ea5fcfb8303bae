// A thread that reads tensors from files as float32. Requests are served one at a time, in the order they come.
import { closeSync, openSync, readSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'
import { allFinite, widen } from './conversion.ts'
import { storedBytes } from './dtypes.ts'
import type { StoredRange, Widened } from './widening.ts'

/** A piece is widened while it is still in the processor's cache. */
const PIECE_BYTES = 2 * 1024 * 1024

const buffer = new Uint8Array(PIECE_BYTES)

/** Fills the target from the file; false where the file ends first. */
function readFully (descriptor: number, target: Uint8Array, position: number): boolean {
  for (let done = 0; done < target.byteLength;) {
    const bytesRead = readSync(descriptor, target, done, target.byteLength - done, position + done)
    if (bytesRead === 0) return false
    done += bytesRead
  }
  return true
}

function read ({ path, start, bytes, dtype }: StoredRange): Widened {
  const size = storedBytes[dtype]
  const data = new Float32Array(bytes / size)
  const stored = dtype === 'F32' ? new Uint8Array(data.buffer) : undefined
  let finite = true
  const descriptor = openSync(path, 'r')
  try {
    for (let offset = 0; offset < bytes; offset += PIECE_BYTES) {
      const length = Math.min(PIECE_BYTES, bytes - offset)
      const piece = stored?.subarray(offset, offset + length) ?? buffer.subarray(0, length)
      if (!readFully(descriptor, piece, start + offset)) return { fault: 'short' }
      const values = data.subarray(offset / size, (offset + length) / size)
      finite = (dtype === 'F32' ? allFinite(values) : widen(dtype, piece, values)) && finite
    }
  } finally {
    closeSync(descriptor)
  }
  return finite ? { data } : { fault: 'not finite' }
}

parentPort!.on('message', (range: StoredRange) => {
  let answer: Widened
  try {
    answer = read(range)
  } catch (error) {
    answer = { fault: 'unreadable', message: error instanceof Error ? error.message : String(error) }
  }
  parentPort!.postMessage(answer, 'data' in answer ? [answer.data.buffer] : [])
})
