import { vi } from 'vitest'
import { Boundary, type Protection, type Release } from '../../src/model/privacy/boundary.ts'
import type { Tensor } from '../../src/tensor.ts'
import { original } from './original.ts'

/**
 * Watches all boundaries of this process: clients release, alone or at the end of a chain, servers do not. Hears of the clean rows and of
 * what leaves.
 */
export function watchReleases (onRelease: (clean: Tensor, release: Release, protection: Protection) => void): void {
  const protecting = original(Boundary, 'protecting')
  vi.spyOn(Boundary.prototype, 'protecting').mockImplementation(async function (this: Boundary, rows, protection, draw, options) {
    // A chain that runs twice computes the same again: it writes to the same places of its caches.
    const [clean] = await this.encode(rows)
    const { calls, also, released } = await protecting.call(this, rows, protection, draw, options)
    return {
      calls,
      also,
      released (results) {
        const release = released(results)
        onRelease(clean!, release, protection)
        return release
      }
    }
  })
}
