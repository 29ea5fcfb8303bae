import { openDevice, type OpenDevice } from '../model/runtime/worker-device.ts'

/** The parts of a role that somebody who embeds it may replace. */
export interface RoleComponents {
  /** Opens the device that the role computes on. The role closes it. */
  readonly openDevice: OpenDevice
}

/** The parts of a role where nobody replaces any. */
export const roleComponents: RoleComponents = { openDevice }
