import type { Dim } from '../../../src/model/graph/graph.ts'
import type { Program } from '../../../src/model/graph/program.ts'

/** Shapes by the names of tensors. */
export type Shapes = Readonly<Record<string, readonly number[] | undefined>>

const RESIDUAL = /^residual\.\d+$/

/**
 * Computes the shapes of a program's outputs from those of its inputs, without running it. An axis is as long as the inputs say that have
 * an axis of its name; one that is joined of several, `rows` of `rows.0`, `rows.1` and so on or `kept+more`, as these together. An output
 * of any shape has that of the first input of any shape. What a forward pass keeps for its own backward pass has 1 for an axis that no
 * input names. Outputs in `except` are left out. Throws RangeError for an input that does not fit the program, and for an axis whose length
 * no input says.
 */
export function outputShapes (program: Program, inputs: Shapes, except: ReadonlySet<string> = new Set()): Record<string, number[]> {
  const sizes = new Map<string, number>()
  let anyShape: readonly number[] | undefined
  for (const { name, shape } of program.inputs) {
    const given = inputs[name]
    if (given === undefined) continue
    if (shape === undefined) {
      anyShape ??= given
      continue
    }
    const fits = shape.length === given.length && shape.every((dim, axis) =>
      (typeof dim === 'number' ? dim : sizes.get(dim) ?? given[axis]) === given[axis])
    if (!fits) throw new RangeError(`the input ${name} of the program ${program.name} is [${given.join(', ')}], not [${shape.join(', ')}]`)
    for (const [axis, dim] of shape.entries()) if (typeof dim === 'string') sizes.set(dim, given[axis]!)
  }
  const shapes: Record<string, number[]> = {}
  for (const { name, shape } of program.outputs) {
    if (except.has(name)) continue
    const sizeOfAxis = (dim: Dim): number => sizeOf(dim, sizes) ?? (RESIDUAL.test(name) ? 1 : fail(program, name, dim))
    const found = shape === undefined ? anyShape : shape.map(sizeOfAxis)
    shapes[name] = [...found ?? fail(program, name, '...')]
  }
  return shapes
}

function sizeOf (dim: Dim, sizes: ReadonlyMap<string, number>): number | undefined {
  if (typeof dim === 'number') return dim
  const known = sizes.get(dim)
  if (known !== undefined) return known
  const parts = dim.includes('+')
    ? dim.split('+').map((part) => /^\d+$/.test(part) ? Number(part) : sizeOf(part, sizes))
    : [...sizes].filter(([name]) => name.startsWith(`${dim}.`)).map(([, size]) => size)
  if (parts.length === 0 || parts.some((part) => part === undefined)) return undefined
  return (parts as number[]).reduce((sum, part) => sum + part)
}

function fail (program: Program, output: string, dim: Dim): never {
  throw new RangeError(`no input of the program ${program.name} says how long the axis ${dim} of its output ${output} is`)
}
