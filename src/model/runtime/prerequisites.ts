import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type { DeviceKind } from './device.ts'
import { isSoftwareDriver, vulkanDrivers } from './vulkan.ts'

/** What is missing before a device of this kind can work, and how to get it. */
export interface Missing {
  readonly what: string
  readonly next: string
}

const VULKAN: Missing = { what: 'no Vulkan driver is installed', next: "install the GPU's Vulkan driver and libvulkan1" }

/** The folder of the onnxruntime-node that this process computes with: a release carries its own. */
const ONNXRUNTIME = dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'))

const CUDA: Missing = {
  what: "onnxruntime's CUDA libraries are not installed",
  next: `node ${join(ONNXRUNTIME, 'script/install.js')} --onnxruntime-node-install=cuda12`
}

/** Returns what can be seen to be missing without opening the device. */
export function missingFor (kind: DeviceKind): Missing | undefined {
  if (kind === 'webgpu' && process.platform === 'linux' && vulkanDrivers().length === 0) return VULKAN
  if (kind === 'cuda' && !hasCudaLibraries()) return CUDA
  return undefined
}

/** Returns whether WebGPU can only have an adapter that computes on the CPU. */
export function onlySoftware (): boolean {
  return process.platform === 'linux' && vulkanDrivers().every(isSoftwareDriver)
}

/**
 * Returns whether onnxruntime's install script has fetched its CUDA provider, as libonnxruntime_providers_cuda.so beside its other
 * libraries.
 */
function hasCudaLibraries (): boolean {
  return readdirSync(join(ONNXRUNTIME, 'bin'), { recursive: true, encoding: 'utf8' }).some((file) =>
    file.includes(join(process.platform, process.arch)) && file.includes('providers_cuda')
  )
}
