import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Trial } from './device-trial.ts'
import { checkCompute, DeviceError, type ComputeType, type DeviceKind } from './device.ts'
import { missingFor, onlySoftware } from './prerequisites.ts'

/** What a user asks for. `auto` takes a GPU that is faster than the CPU. */
export type DeviceWish = 'auto' | DeviceKind

export interface DeviceChoice {
  readonly kind: DeviceKind
  /** Why this one, and why not the others: a line for people. */
  readonly reason: string
}

/** How devices are tried, so that the choice can be made without any. */
export interface Trials {
  readonly missing: typeof missingFor
  readonly onlySoftware: typeof onlySoftware
  readonly tried: (kind: DeviceKind, signal?: AbortSignal) => Promise<Trial>
}

/** In the order in which `auto` prefers them. */
const GPUS = ['webgpu', 'cuda'] as const

/** A driver that takes longer than this to multiply two matrices is of no use. */
const TRIAL_TIMEOUT_MS = 30_000

const TRIAL_ENTRY = fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? './device-trial.ts' : './device-trial.js', import.meta.url))

/** What a CUDA device costs: onnxruntime-node keeps no tensors on it. */
const CUDA_COST = 'weights and activations cross the bus in every run, for onnxruntime-node holds no tensors in CUDA\'s memory'

/** Chooses what computes. Throws DeviceError where a device that is asked for by name cannot, or cannot compute in this type. */
export async function chooseDevice (
  wish: DeviceWish,
  compute: ComputeType,
  signal?: AbortSignal,
  trials: Trials = onThisMachine
): Promise<DeviceChoice> {
  if (wish === 'auto' && compute === 'int8') return { kind: 'cpu', reason: 'int8 products are the CPU\'s' }
  if (wish !== 'auto') checkCompute(wish, compute)
  if (wish === 'cpu') return { kind: 'cpu', reason: 'as set' }
  if (wish !== 'auto') return await choiceOf(wish, signal, trials)
  const others: string[] = []
  let cpu: Promise<Trial> | undefined
  for (const kind of GPUS) {
    const missing = trials.missing(kind)
    if (missing !== undefined || (kind === 'webgpu' && trials.onlySoftware())) {
      others.push(`${kind}: ${missing?.what ?? 'the only Vulkan driver computes on the CPU'}`)
      continue
    }
    const trial = await trials.tried(kind, signal)
    if (!trial.works) {
      others.push(`${kind}: ${trial.why}`)
      continue
    }
    cpu ??= trials.tried('cpu', signal)
    const host = await cpu
    if (host.works && host.gflops >= trial.gflops) {
      others.push(`${kind}: slower than the CPU (${speed(trial)} to ${speed(host)})`)
      continue
    }
    const faster = host.works ? `${speed(trial)}, the CPU ${speed(host)}` : speed(trial)
    return { kind, reason: [faster, ...costOf(kind), ...others].join('; ') }
  }
  return { kind: 'cpu', reason: others.join('; ') }
}

async function choiceOf (kind: DeviceKind, signal: AbortSignal | undefined, trials: Trials): Promise<DeviceChoice> {
  const missing = trials.missing(kind)
  if (missing !== undefined)
    throw new DeviceError(`the device ${kind} cannot be used: ${missing.what}`, { next: `${missing.next}, or choose another device` })
  const trial = await trials.tried(kind, signal)
  if (!trial.works)
    throw new DeviceError(`the device ${kind} cannot be used: ${trial.why}`, { next: 'mend its driver, or choose another device' })
  const software = kind === 'webgpu' && trials.onlySoftware() ? ['a driver that computes on the CPU'] : []
  return { kind, reason: ['as set', speed(trial), ...software, ...costOf(kind)].join('; ') }
}

function speed ({ gflops }: Extract<Trial, { works: true }>): string {
  return `${gflops < 10 ? gflops.toFixed(1) : Math.round(gflops)} GFLOP/s`
}

function costOf (kind: DeviceKind): string[] {
  return kind === 'cuda' ? [CUDA_COST] : []
}

const onThisMachine: Trials = { missing: missingFor, onlySoftware, tried: tryInProcess }

/** Tries a device in a process of its own. */
async function tryInProcess (kind: DeviceKind, signal?: AbortSignal): Promise<Trial> {
  return await new Promise((resolve) => {
    const child = fork(TRIAL_ENTRY, [kind], {
      stdio: 'ignore',
      execArgv: [],
      timeout: TRIAL_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      ...(signal === undefined ? {} : { signal })
    })
    child.once('message', (trial) => {
      resolve(trial as Trial)
    })
    child.once('error', ({ message }) => {
      resolve({ works: false, why: message })
    })
    child.once('exit', (_, signal) => {
      resolve({
        works: false,
        why: signal === null ? 'its driver ended the process that tried it' : `its driver ended the process that tried it, with ${signal}`
      })
    })
  })
}
