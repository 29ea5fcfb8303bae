import type { Deferred, Device, DeviceTensor } from '../../../src/model/runtime/device.ts'

/** Runs the calls of a result that is still to be computed. The caller frees the result. */
export async function computed (device: Device, { calls, output }: Deferred): Promise<DeviceTensor> {
  return (await device.runSequence(calls, { keep: 'all' }))[output] as DeviceTensor
}
