// A process of its own that tries a device and tells its parent: a driver that crashes takes nothing else along.
import { pathToFileURL } from 'node:url'
import { float32 } from '../../tensor.ts'
import { Graph } from '../graph/graph.ts'
import { matmul, reduceMax } from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import type { Device, DeviceKind } from './device.ts'
import { openDevice } from './worker-device.ts'

/** What a trial found: how fast the device multiplies float32 matrices, in 10^9 operations a second, or why it cannot. */
export type Trial =
  | { readonly works: true, readonly gflops: number }
  | { readonly works: false, readonly why: string }

/**
 * Sides of the matrices multiplied. The largest that the device is quick at counts: small ones measure the way to a GPU, large ones keep a
 * slow device busy.
 */
const SIDES = [256, 1024]
const QUICK_MS = 20

/** Opens a device and multiplies. */
export async function tryOut (kind: DeviceKind): Promise<Trial> {
  let device: Device | undefined
  try {
    device = await openDevice(kind)
    const product = await device.compile(productProgram())
    let gflops = 0
    for (const side of SIDES) {
      const x = await device.upload(float32([side, side], new Float32Array(side ** 2).fill(1 / side)))
      await product.run({ x })
      const start = performance.now()
      await product.run({ x })
      const elapsedMs = performance.now() - start
      gflops = 2 * side ** 3 / elapsedMs / 1e6
      if (elapsedMs > QUICK_MS) break
    }
    return { works: true, gflops }
  } catch (error) {
    return { works: false, why: concise(error instanceof Error ? error.message : String(error)) }
  } finally {
    await device?.close()
  }
}

/** onnxruntime's messages begin with the place in its sources and the check that failed there. */
function concise (message: string): string {
  return message.split(' was false. ').at(-1)!.trim().replaceAll(/\s+/g, ' ')
}

function productProgram (): Program {
  const graph = new Graph()
  const x = graph.input('x', 'float32', ['side', 'side'])
  graph.output('largest', reduceMax(matmul(x, x)))
  return program('trial', graph)
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.send!(await tryOut(process.argv[2] as DeviceKind), () => { process.disconnect() })
}
