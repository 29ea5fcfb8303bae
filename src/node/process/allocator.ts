/**
 * How glibc is to allocate for processes that compute. A step of training takes and gives back hundreds of tensors of megabytes. As glibc
 * comes, each of them is pages that the kernel maps, clears and takes away again (65,000 page faults a step of a model 512 wide, a seventh
 * of its time), since the device's thread has an arena of its own, which keeps nothing. With one arena that keeps what it has, and whose
 * pages are huge ones where the kernel grants them, a warm step has hardly any.
 *
 * Larger tensors than 32 MiB, weights above all, have mappings of their own: with 64 a step of a model 2048 wide held a tenth more.
 *
 * glibc reads this once, when a process starts; other C libraries do not look at it. Names and meanings: "Memory Allocation Tunables" in
 * the GNU C Library's manual.
 */
const TUNABLES = [
  'glibc.malloc.arena_max=1',
  `glibc.malloc.mmap_threshold=${2 ** 25}`,
  `glibc.malloc.trim_threshold=${2 ** 32}`,
  'glibc.malloc.hugetlb=1'
].join(':')

/** The environment for a process that computes. Settings that are there already are the user's, and stay. */
export function withAllocatorSettings (environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { GLIBC_TUNABLES: TUNABLES, ...environment }
}

/** Starts this process anew, in its place, with the settings above, where it lacks them and can. */
export function restartWithAllocatorSettings (): void {
  // Node has execve from 22.15 and 23.11 on, but not on Windows; a channel to a parent would not outlive it.
  if (process.platform !== 'linux' || process.execve === undefined || process.connected) return
  if (process.env.GLIBC_TUNABLES !== undefined) return
  process.execve(process.execPath, [process.execPath, ...process.execArgv, ...process.argv.slice(1)], withAllocatorSettings(process.env))
}
