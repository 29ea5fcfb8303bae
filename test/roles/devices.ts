import type { Device } from '../../src/model/runtime/device.ts'
import type * as Runtime from '../../src/model/runtime/worker-device.ts'

/**
 * The devices of a test file whose module `runtime/worker-device.ts` is `noting`, in the order in which peers open them: a federation's
 * server comes before its clients.
 */
export const devices: Device[] = []

/** The module as it is, but that devices are noted as they open: what `vi.mock` takes. */
export async function noting (load: <Module>() => Promise<Module>): Promise<typeof Runtime> {
  const actual = await load<typeof Runtime>()
  return {
    ...actual,
    async openDevice (...parameters) {
      const device = await actual.openDevice(...parameters)
      devices.push(device)
      return device
    }
  }
}
