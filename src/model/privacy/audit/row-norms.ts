import type { Device, DeviceTensor } from '../../runtime/device.ts'
import { Scope } from '../../runtime/scope.ts'

/** Finds the greatest L2 norm among the hidden states of several sequences, which `compute` makes [tokens, hidden]. */
export async function longestRow<Sequence> (
  device: Device,
  compute: (sequence: Sequence) => Promise<DeviceTensor>,
  sequences: readonly Sequence[]
): Promise<number> {
  let most = 0
  for (const sequence of sequences) {
    using scope = new Scope(device)
    const { shape: [rows = 0, width = 0], data } = await device.download(scope.own(await compute(sequence)))
    for (let row = 0; row < rows; row++) {
      let squares = 0
      for (let i = row * width; i < (row + 1) * width; i++) squares += (data[i] as number) ** 2
      most = Math.max(most, Math.sqrt(squares))
    }
  }
  return most
}
