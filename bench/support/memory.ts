import { readFile, writeFile } from 'node:fs/promises'

const KIB = 1024

/** Memory of a process in bytes, as Linux counts what is resident: now, and at most since its start or since `resetPeak`. */
export async function residentMemory (pid: number): Promise<{ now: number, peak: number }> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  const read = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]) * KIB
  return { now: read('VmRSS'), peak: read('VmHWM') }
}

/** From now on the peak is counted anew (proc(5), clear_refs). */
export async function resetPeak (pid: number): Promise<void> {
  await writeFile(`/proc/${pid}/clear_refs`, '5')
}
