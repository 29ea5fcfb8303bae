import { existsSync } from 'node:fs'
import { isSoftwareDriver, vulkanDrivers } from '../../src/model/runtime/vulkan.ts'

/** SwiftShader, a Vulkan driver that computes on the CPU, as Debian's package chromium-common and Ubuntu's snap have it. */
const SWIFTSHADER = ['/usr/lib/chromium/vk_swiftshader_icd.json', '/usr/lib/chromium-browser/vk_swiftshader_icd.json']

export interface Driver {
  readonly name: string
  /** What a process needs to load it. */
  readonly env: Readonly<Record<string, string>>
}

/**
 * The machine's own GPU where it has a driver for one, SwiftShader where that is installed; undefined where WebGPU has nothing to run on.
 */
export function webGpuDriver (): Driver | undefined {
  if (process.platform !== 'linux') return { name: `${process.platform}'s own`, env: {} }
  const installed = vulkanDrivers()
  const hardware = installed.filter((manifest) => !isSoftwareDriver(manifest))
  if (hardware.length > 0) return { name: hardware.join(', '), env: {} }
  const software = [...installed, ...SWIFTSHADER].find((manifest) => /swiftshader/i.test(manifest) && existsSync(manifest))
  return software === undefined ? undefined : { name: software, env: { VK_DRIVER_FILES: software } }
}
