// The thread that holds a device's sessions and tensors. Requests are served one at a time, in the order they come.
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import * as ort from 'onnxruntime-node'
import { bytesOf, elementCount, fromBytes, type DType, type Tensor } from '../../tensor.ts'
import { keystreamBytes } from './keystream.ts'
import type { Answer, Held, Operand, Outcome, Request, Run, WorkerOptions } from './messages.ts'
import { hostProvider, hostTensor } from './providers/host.ts'
import type { Provider } from './providers/provider.ts'

// onnxruntime-node 1.30 takes a Float16Array for a float16 tensor where there is one (Node 24), but reads its length as 0; where there is
// none, it takes the bits as a Uint16Array, which are what Midspan's tensors hold.
Reflect.deleteProperty(globalThis, 'Float16Array')

const { kind, threads, profile } = workerData as WorkerOptions

const sessions = new Map<number, ort.InferenceSession>()
const tensors = new Map<number, ort.Tensor>()
let nextId = 1
let provider: Provider

/** The last outputs of each name. */
type Results = ReadonlyMap<string, ort.Tensor>

async function serve (request: Request): Promise<Omit<Extract<Answer, { ok: true }>, 'ok'>> {
  switch (request.kind) {
    case 'open': {
      provider = kind === 'webgpu' ? await openWebGpu() : hostProvider(kind)
      return { held: [], values: [] }
    }
    case 'compile': {
      const { model, externalData } = request.model
      const held = await Promise.all(
        Object.entries(request.constants).map(async ([path, id]) => ({ path, data: bytesOf(await provider.read(tensors.get(id)!)) }))
      )
      sessions.set(
        request.session,
        await ort.InferenceSession.create(model, {
          ...provider.sessionOptions(request.model, request.outputs),
          externalData: [...externalData, ...held],
          graphOptimizationLevel: 'all',
          // An arena belongs to one program and keeps its largest run's memory: a step of a block 2048 wide then held a sixth more, for 3 %
          // less time. A pattern plans whole runs ahead, one for each set of shapes: no faster, and arenas held twice as much.
          enableCpuMemArena: false,
          enableMemPattern: false,
          logSeverityLevel: 3,
          ...(threads === undefined ? {} : { intraOpNumThreads: threads }),
          ...(profile === undefined
            ? {}
            : { enableProfiling: true, profileFilePrefix: join(profile, `${request.session}-${request.name}`) }),
          // Each session has operator threads of its own. Between the operators of a run they spin, since waking them takes as long as a
          // small operator does; after it they sleep, or they would slow the next session down, and the network's thread.
          extra: { session: { force_spinning_stop: '1', intra_op: { allow_spinning: '1', spin_duration_us: '100' } } }
        })
      )
      return { held: [], values: [] }
    }
    case 'run': return await runAll(request.runs, request.outputs)
    case 'upload': return { held: [hold(await provider.store(request.value))], values: [] }
    case 'zeros': return { held: [hold(await provider.zeros(request.dtype, request.shape))], values: [] }
    case 'random': {
      const keystreams = request.keystreams ?? [{ key: randomBytes(32), elements: elementCount(request.shape) }]
      const bits = fromBytes('uint32', request.shape, keystreamBytes(keystreams))
      return { held: [hold(await provider.store(bits))], values: [] }
    }
    case 'download': return { held: [], values: await Promise.all(request.ids.map(async (id) => await provider.read(tensors.get(id)!))) }
    case 'free':
      for (const id of request.ids) {
        provider.discard(tensors.get(id)!)
        tensors.delete(id)
      }
      return { held: [], values: [] }
    case 'release': {
      const session = sessions.get(request.session)
      sessions.delete(request.session)
      await session?.release()
      return { held: [], values: [] }
    }
    case 'endProfiling':
      for (const session of sessions.values()) session.endProfiling()
      return { held: [], values: [] }
  }
}

/** Loads what a GPU alone needs, the graph's operators among it: four in five of the modules that this thread would load. */
async function openWebGpu (): Promise<Provider> {
  const { WebGpuProvider } = await import('./providers/webgpu.ts')
  return await WebGpuProvider.open()
}

async function runAll (runs: readonly Run[], outputs: readonly Outcome[]): Promise<{ held: Held[], values: Tensor[] }> {
  const results = new Map<string, ort.Tensor>()
  const held: Held[] = []
  const values: Tensor[] = []
  try {
    for (const one of runs) {
      for (const [name, value] of Object.entries(await run(one, results))) {
        discard(results.get(name))
        results.set(name, value)
      }
    }
    for (const { name, keep } of outputs) {
      const value = results.get(name)!
      results.delete(name)
      if (keep) held.push(hold(value))
      else values.push(await provider.take(value))
    }
    return { held, values }
  } finally {
    for (const value of results.values()) discard(value)
  }
}

function discard (value: ort.Tensor | undefined): void {
  if (value !== undefined) provider.discard(value)
}

/** Returns the outputs of a run, but for those that are written into tensors held here. */
async function run ({ session, inputs, outputs }: Run, before: Results): Promise<Record<string, ort.Tensor>> {
  const feeds: Record<string, ort.Tensor> = {}
  for (const [name, operand] of Object.entries(inputs)) feeds[name] = operandOf(operand, before)
  const fetches: Record<string, ort.Tensor | null> = {}
  for (const { name, inPlace } of outputs) fetches[name] = inPlace === undefined ? null : tensors.get(inPlace)!
  const results = await provider.run(sessions.get(session)!, feeds, fetches)
  for (const { name, inPlace } of outputs) {
    if (inPlace === undefined) continue
    tensors.set(inPlace, results[name]!)
    Reflect.deleteProperty(results, name)
  }
  return results
}

function operandOf (operand: Operand, before: Results): ort.Tensor {
  if (typeof operand === 'number') return tensors.get(operand)!
  return 'output' in operand ? before.get(operand.output)! : hostTensor(operand)
}

function hold (value: ort.Tensor): Held {
  const id = nextId++
  tensors.set(id, value)
  return { id, dtype: value.type as DType, shape: value.dims }
}

async function answer (request: Request): Promise<void> {
  const needsAnswer = request.kind !== 'free'
  try {
    const { held, values } = await serve(request)
    if (needsAnswer)
      parentPort!.postMessage({ ok: true, held, values } satisfies Answer, [
        ...new Set(values.map((value) => value.data.buffer as ArrayBuffer))
      ])
  } catch (error) {
    if (needsAnswer)
      parentPort!.postMessage({ ok: false, message: error instanceof Error ? error.message : String(error) } satisfies Answer)
  }
}

let tail = Promise.resolve()
parentPort!.on('message', (request: Request) => { tail = tail.then(() => answer(request)) })
