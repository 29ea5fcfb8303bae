// The thread that holds a device's sessions and tensors. Requests are served one at a time, in the order they come.
import { createCipheriv, randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import * as ort from 'onnxruntime-node'
import { bytesPerElement, elementCount, fromBytes, type DType, type Tensor, type TensorData } from '../../tensor.ts'
import type { Answer, Held, Operand, Request, Run, WorkerOptions } from './messages.ts'

// onnxruntime-node 1.30 takes a Float16Array for a float16 tensor where there is one (Node 24), but reads its length as 0; where there is
// none, it takes the bits as a Uint16Array, which are what Midspan's tensors hold.
Reflect.deleteProperty(globalThis, 'Float16Array')

const { threads, spin, profile } = workerData as WorkerOptions

/** Outputs up to this size are copied out of onnxruntime's arena rather than moved: a small view would pin its whole chunk. */
const COPY_UP_TO_BYTES = 4096

const sessions = new Map<number, ort.InferenceSession>()
const tensors = new Map<number, ort.Tensor>()
let nextId = 1

async function serve (request: Request): Promise<Omit<Extract<Answer, { ok: true }>, 'ok'>> {
  switch (request.kind) {
    case 'compile': {
      sessions.set(request.session, await ort.InferenceSession.create(request.model, {
        executionProviders: ['cpu'],
        externalData: request.externalData.map(({ path, data }) => ({ path, data })),
        graphOptimizationLevel: 'all',
        logSeverityLevel: 3,
        ...(threads === undefined ? {} : { intraOpNumThreads: threads }),
        ...(profile === undefined ? {} : { enableProfiling: true, profileFilePrefix: join(profile, `${request.session}-${request.name}`) }),
        extra: { session: { intra_op: { allow_spinning: spin ? '1' : '0' } } }
      }))
      return { held: [], values: [] }
    }
    case 'run': return await runAll(request.runs)
    case 'upload': return { held: [hold(fromHost(request.value))], values: [] }
    case 'zeros': {
      const { dtype, shape } = request
      const bytes = new Uint8Array(elementCount(shape) * bytesPerElement[dtype])
      return { held: [hold(fromHost(fromBytes(dtype, shape, bytes)))], values: [] }
    }
    case 'random': {
      const cipher = createCipheriv('aes-256-ctr', request.key ?? randomBytes(32), new Uint8Array(16))
      const bits = cipher.update(new Uint8Array(elementCount(request.shape) * 4))
      return { held: [hold(fromHost(fromBytes('uint32', request.shape, bits)))], values: [] }
    }
    case 'download': {
      const { type, dims, data } = tensors.get(request.id)!
      return { held: [], values: [{ dtype: type as DType, shape: dims, data: (data as TensorData).slice() }] }
    }
    case 'free':
      for (const id of request.ids) tensors.delete(id)
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

async function runAll (runs: readonly Run[]): Promise<{ held: Held[], values: Tensor[] }> {
  let results: Results = {}
  for (const one of runs) results = await run(one, results)
  const held: Held[] = []
  const values: Tensor[] = []
  for (const { name, keep, inPlace } of runs.at(-1)!.outputs) {
    if (inPlace !== undefined) continue
    const result = results[name]!
    if (keep) held.push(hold(result))
    else values.push(toHost(result))
  }
  return { held, values }
}

type Results = Readonly<Record<string, ort.Tensor>>

async function run ({ session, inputs, outputs }: Run, before: Results): Promise<Results> {
  const feeds: Record<string, ort.Tensor> = {}
  for (const [name, operand] of Object.entries(inputs)) feeds[name] = operandOf(operand, before)
  const fetches: Record<string, ort.Tensor | null> = {}
  for (const { name, inPlace } of outputs) fetches[name] = inPlace === undefined ? null : tensors.get(inPlace)!
  return await sessions.get(session)!.run(feeds, fetches)
}

function operandOf (operand: Operand, before: Results): ort.Tensor {
  if (typeof operand === 'number') return tensors.get(operand)!
  return 'passed' in operand ? before[operand.passed]! : fromHost(operand)
}

function hold (value: ort.Tensor): Held {
  const id = nextId++
  tensors.set(id, value)
  return { id, dtype: value.type as DType, shape: value.dims }
}

function fromHost ({ dtype, shape, data }: Tensor): ort.Tensor {
  return new ort.Tensor(dtype, data, shape)
}

function toHost ({ type, dims, data }: ort.Tensor): Tensor {
  const bits = data as TensorData
  return { dtype: type as DType, shape: dims, data: bits.byteLength <= COPY_UP_TO_BYTES ? bits.slice() : bits }
}

async function answer (request: Request): Promise<void> {
  const needsAnswer = request.kind !== 'free'
  try {
    const { held, values } = await serve(request)
    if (needsAnswer) parentPort!.postMessage({ ok: true, held, values } satisfies Answer, [...new Set(values.map(value => value.data.buffer as ArrayBuffer))])
  } catch (error) {
    if (needsAnswer) parentPort!.postMessage({ ok: false, message: error instanceof Error ? error.message : String(error) } satisfies Answer)
  }
}

let tail = Promise.resolve()
parentPort!.on('message', (request: Request) => { tail = tail.then(() => answer(request)) })
