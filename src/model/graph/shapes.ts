import { GraphError } from './errors.ts'
import type { Dim } from './graph.ts'

/** Returns the common shape of operands by NumPy's rule. A symbolic size meets only itself or 1. */
export function broadcastShapes (name: string, ...shapes: ReadonlyArray<readonly Dim[]>): Dim[] {
  const rank = Math.max(...shapes.map((shape) => shape.length))
  return Array.from({ length: rank }, (_, axis) => {
    let size: Dim = 1
    for (const shape of shapes) {
      const dim = shape[axis - rank + shape.length] ?? 1
      if (dim === 1 || dim === size) continue
      if (size !== 1)
        throw new GraphError(
          `${name} cannot broadcast ${shapes.map(format).join(' and ')}: ${size} against ${dim}`,
          'reshape the operands, or give equal sizes one name'
        )
      size = dim
    }
    return size
  })
}

export function sameShape (a: readonly Dim[], b: readonly Dim[]): boolean {
  return a.length === b.length && a.every((dim, axis) => dim === b[axis])
}

/** Returns the sum of sizes; symbolic ones give a name such as `past+seq`. */
export function addDims (...dims: readonly Dim[]): Dim {
  const constant = dims.reduce<number>((sum, dim) => typeof dim === 'number' ? sum + dim : sum, 0)
  const names = dims.filter((dim) => typeof dim === 'string')
  if (names.length === 0) return constant
  if (constant === 0) return names.join('+')
  return names.join('+') + (constant > 0 ? '+' : '') + constant
}

export function format (shape: readonly Dim[]): string {
  return `[${shape.join(', ')}]`
}
