import { readdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Where the Vulkan loader looks for drivers' manifests on Linux (Vulkan-Loader, docs/LoaderDriverInterface.md). */
const DIRECTORIES = ['/etc/vulkan/icd.d', '/usr/local/etc/vulkan/icd.d', '/usr/local/share/vulkan/icd.d', '/usr/share/vulkan/icd.d']

/** Drivers that compute on the CPU: SwiftShader, and Mesa's lavapipe. */
const SOFTWARE = /swiftshader|lvp_icd|lavapipe/i

/** Returns the manifests of the Vulkan drivers that a process with these variables loads, on Linux. */
export function vulkanDrivers (env: Readonly<Record<string, string | undefined>> = process.env): string[] {
  const named = env.VK_DRIVER_FILES ?? env.VK_ICD_FILENAMES
  if (named !== undefined && named !== '') return named.split(delimiter)
  return DIRECTORIES.flatMap(manifestsIn)
}

/** Returns whether a driver, by its manifest's name, is one that computes on the CPU. */
export function isSoftwareDriver (manifest: string): boolean {
  return SOFTWARE.test(manifest)
}

function manifestsIn (directory: string): string[] {
  try {
    return readdirSync(directory).filter((file) => file.endsWith('.json')).map((file) => join(directory, file))
  } catch {
    return []
  }
}
