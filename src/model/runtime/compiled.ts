import type { Program } from '../graph/program.ts'
import type { Device, Executable } from './device.ts'

const caches = new WeakMap<Device, Map<string, Promise<Executable>>>()

/**
 * Returns the executable under a key on a device. The program is built and compiled when it is first asked for, and kept as long as the
 * device. Equal keys must mean equal programs.
 */
export async function compiled (device: Device, key: string, build: () => Program): Promise<Executable> {
  const cache = caches.get(device) ?? new Map<string, Promise<Executable>>()
  caches.set(device, cache)
  const known = cache.get(key)
  if (known !== undefined) return await known
  const made = device.compile(build())
  cache.set(key, made)
  made.catch(() => { cache.delete(key) })
  return await made
}
