import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

/** One kernel's run, as onnxruntime's trace of a session has it. */
export interface Kernel {
  /** The program that it is part of. */
  readonly program: string
  readonly op: string
  readonly ms: number
  readonly inputs: ReadonlyArray<readonly number[]>
  readonly outputs: ReadonlyArray<readonly number[]>
}

/** What the sessions of a device did: kernels, and runs of whole programs. */
export interface Trace {
  readonly kernels: readonly Kernel[]
  readonly runs: ReadonlyArray<{ readonly program: string, readonly ms: number }>
}

/** A shape by the name of its element type. */
type TypedShape = Readonly<Record<string, readonly number[]>>

interface Event {
  readonly cat: string
  readonly name: string
  readonly dur: number
  readonly args: {
    readonly op_name: string,
    readonly input_type_shape: readonly TypedShape[],
    readonly output_type_shape: readonly TypedShape[]
  }
}

const FILE = /^\d+-(?<program>.+)_\d{4}-\d\d-\d\d_[\d-]+_\d+\.json$/

/** Reads the traces of a device's sessions; of each program only its last `calls(program)` runs. */
export async function readTraces (directory: string, calls: (program: string, runs: number) => number): Promise<Trace> {
  const kernels: Kernel[] = []
  const runs: Array<Trace['runs'][number]> = []
  for (const file of await readdir(directory)) {
    const program = FILE.exec(file)?.groups?.program
    if (program === undefined) continue
    const events = JSON.parse(await readFile(join(directory, file), 'utf8')) as Event[]
    const ends = events.flatMap(({ name }, index) => name === 'model_run' ? [index] : [])
    const taken = calls(program, ends.length)
    if (taken === 0) continue
    const first = taken >= ends.length ? 0 : ends[ends.length - taken - 1]! + 1
    for (const { cat, name, dur, args } of events.slice(first)) {
      if (name === 'model_run') runs.push({ program, ms: dur / 1000 })
      if (cat === 'Node' && name.endsWith('_kernel_time'))
        kernels.push({
          program,
          op: args.op_name,
          ms: dur / 1000,
          inputs: shapes(args.input_type_shape),
          outputs: shapes(args.output_type_shape)
        })
    }
  }
  return { kernels, runs }
}

function shapes (typed: readonly TypedShape[]): ReadonlyArray<readonly number[]> {
  return typed.map((one) => Object.values(one)[0] ?? [])
}

const size = (shape: readonly number[] = []): number => shape.reduce((all, dim) => all * dim, 1)

/** Multiplications and additions of a matrix product, however its operands are transposed; 0 for other kernels. */
export function productFlops ({ op, inputs: [a, b], outputs: [y] }: Kernel): number {
  if (!isProduct(op)) return 0
  const batch = size(y?.slice(0, -2))
  return 2 * size(y) * Math.sqrt(size(a) * size(b) / size(y) / batch)
}

export function isProduct (op: string): boolean {
  return ['MatMul', 'Gemm', 'FusedMatMul', 'FusedGemm'].includes(op)
}
