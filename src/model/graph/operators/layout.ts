// Operators that move values without computing on them, and the sums that are their derivatives.
import { tensor, type Tensor } from '../../../tensor.ts'
import { GraphError } from '../errors.ts'
import { isAnyShape, type Dim, type Graph, type Value } from '../graph.ts'
import { apply, applyOne, isFloat, onnx, positiveAxis, type Operator } from '../operator.ts'
import { addDims, broadcastShapes, format, sameShape } from '../shapes.ts'

/** Returns an int64 tensor of shape [values.length]. */
export function int64s (values: readonly number[]): Tensor {
  return tensor('int64', [values.length], BigInt64Array.from(values, BigInt))
}

const sizeOperator: Operator<{ dim: string, held: boolean }> = {
  name: 'size',
  infer: () => [{ dtype: 'int64', shape: [1] }],
  reads: ({ dim, held }) => held ? undefined : dim,
  emit ({ inputs: [holder], outputs, attributes: { dim } }, emitter) {
    const { name, axis } = holder === undefined ? emitter.holderOf(dim) : { name: emitter.name(holder), axis: holder.shape.indexOf(dim) }
    emitter.node('Shape', [name], [emitter.name(outputs[0]!)], { start: { i: axis }, end: { i: axis + 1 } })
  }
}

/** Returns a size, as an int64 tensor of shape [1]. Throws GraphError when nothing in the graph has this symbolic size yet. */
export function size (graph: Graph, dim: Dim): Value {
  if (typeof dim === 'number') return graph.constant(int64s([dim]))
  if (isAnyShape([dim])) throw new GraphError('a value of any shape has no size that is known', 'declare its input with a shape')
  const holder = graph.holderOf(dim)
  if (holder === undefined)
    throw new GraphError(`nothing in the graph has the size ${dim}`, 'declare an input that has it, or name it in one size of a reshape')
  const held = graph.inputName(holder) === undefined
  return apply(sizeOperator, graph, held ? [holder] : [], { dim, held })[0]!
}

/** Returns a shape as an int64 tensor of shape [rank]. */
function shapeTensor (graph: Graph, shape: readonly Dim[]): Value {
  if (shape.every((dim) => typeof dim === 'number')) return graph.constant(int64s(shape))
  return concat(shape.map((dim) => size(graph, dim)), 0)
}

const zerosLikeOperator: Operator<null> = {
  name: 'zerosLike',
  infer: ([x]) => [x!],
  // Not ConstantOfShape, for which onnxruntime has no WebGPU kernel. Its Expand on CPU repeats rows faster than scalars.
  emit ({ inputs: [x], outputs: [y] }, emitter) {
    const [shape, row] = [emitter.fresh(), x!.shape.at(-1)]
    const zeros = typeof row === 'number'
      ? emitter.constant(tensor('float32', [row], new Float32Array(row)))
      : emitter.name(x!.graph.scalar(0))
    const typed = x!.dtype === 'float32' ? zeros : emitter.fresh()
    if (typed !== zeros) emitter.node('Cast', [zeros], [typed], { to: { dtype: x!.dtype } })
    emitter.node('Shape', [emitter.name(x!)], [shape])
    emitter.node('Expand', [typed, shape], [emitter.name(y!)])
  },
  vjp: () => [undefined]
}

/** Zeros of the type and shape of x. */
export function zerosLike (x: Value): Value {
  return applyOne(zerosLikeOperator, [x], null)
}

const expandOperator: Operator<{ shape: readonly Dim[] }> = {
  name: 'expand',
  infer: ([x], { shape }) => [{ dtype: x!.dtype, shape }],
  emit: onnx('Expand'),
  vjp: ({ inputs: [x] }, [g]) => [sumTo(g!, x!.shape), undefined]
}

/** Repeats a value along axes of size 1, and along new leading axes. */
export function expand (x: Value, shape: readonly Dim[]): Value {
  if (sameShape(x.shape, shape)) return x
  if (!sameShape(broadcastShapes('expand', x.shape, shape), shape))
    throw new GraphError(`expand cannot turn ${format(x.shape)} into ${format(shape)}`, 'only axes of size 1 can be repeated')
  return applyOne(expandOperator, [x, shapeTensor(x.graph, shape)], { shape })
}

const reshapeOperator: Operator<{ shape: readonly Dim[] }> = {
  name: 'reshape',
  infer: ([x], { shape }) => [{ dtype: x!.dtype, shape }],
  emit: onnx('Reshape'),
  vjp: ({ inputs: [x] }, [g]) => [reshape(g!, x!.shape), undefined]
}

/**
 * Returns the same elements in row-major order under another shape. One symbolic size may be new: it names what the others leave. Throws
 * GraphError where the sizes cannot be resolved or do not hold as many elements.
 */
export function reshape (x: Value, shape: readonly Dim[]): Value {
  if (sameShape(x.shape, shape)) return x
  if (
    shape.every((dim) => typeof dim === 'number') && x.shape.every((dim) => typeof dim === 'number') && product(shape) !== product(x.shape)
  ) {
    throw new GraphError(`reshape cannot turn ${format(x.shape)} into ${format(shape)}`, 'both must hold as many elements')
  }
  return applyOne(reshapeOperator, [x, reshapeTarget(x, shape)], { shape })
}

/** ONNX's target: 0 copies the size on the same axis, -1 is what the others leave; further symbolic sizes are read at run time. */
function reshapeTarget (x: Value, shape: readonly Dim[]): Value {
  const open = shape.flatMap((dim, axis) => typeof dim === 'string' && dim !== x.shape[axis] ? [axis] : [])
  const inferred = open.find((axis) => x.graph.holderOf(shape[axis] as string) === undefined) ?? open.at(-1)
  const parts = shape.map((dim, axis) => {
    if (axis === inferred) return -1
    if (typeof dim === 'number') return dim
    return open.includes(axis) ? size(x.graph, dim) : 0
  })
  if (parts.every((part) => typeof part === 'number')) return x.graph.constant(int64s(parts))
  return concat(parts.map((part) => typeof part === 'number' ? x.graph.constant(int64s([part])) : part), 0)
}

function product (shape: readonly Dim[]): number {
  return shape.reduce<number>((all, dim) => all * Number(dim), 1)
}

const transposeOperator: Operator<{ permutation: readonly number[] }> = {
  name: 'transpose',
  infer: ([x], { permutation }) => [{ dtype: x!.dtype, shape: permutation.map((axis) => x!.shape[axis]!) }],
  emit: onnx('Transpose', ({ permutation }) => ({ perm: { ints: permutation } })),
  vjp: ({ attributes: { permutation } }, [g]) => [transpose(g!, permutation.map((_, axis) => permutation.indexOf(axis)))]
}

/** Axis i of the result is axis `permutation[i]` of x. */
export function transpose (x: Value, permutation: readonly number[]): Value {
  if (permutation.length !== x.shape.length || !permutation.every((axis, i) => axis in x.shape && permutation.indexOf(axis) === i)) {
    throw new GraphError(`transpose cannot permute ${format(x.shape)} by [${permutation.join(', ')}]`, 'name every axis once')
  }
  return applyOne(transposeOperator, [x], { permutation })
}

const concatOperator: Operator<{ axis: number, dim: Dim }> = {
  name: 'concat',
  infer: ([x], { axis, dim }) => [{ dtype: x!.dtype, shape: x!.shape.with(axis, dim) }],
  emit: onnx('Concat', ({ axis }) => ({ axis: { i: axis } })),
  vjp: ({ inputs, attributes: { axis } }, [g]) => split(g!, inputs.map((x) => x.shape[axis]!), axis)
}

/** Joins values along an axis; `dim` names the size of the result where the parts are symbolic (`a+b` unless given). */
export function concat (parts: readonly Value[], axis: number, dim?: Dim): Value {
  const [first, ...rest] = parts
  if (first === undefined) throw new GraphError('concat needs a value', 'give at least one')
  if (rest.length === 0) return first
  const along = positiveAxis(first.shape, axis)
  const misfit = rest.find((part) => part.dtype !== first.dtype || !sameShape(part.shape.with(along, 1), first.shape.with(along, 1)))
  if (misfit !== undefined)
    throw new GraphError(
      `concat cannot join ${format(first.shape)} and ${format(misfit.shape)} along axis ${along}`,
      'the other axes must agree'
    )
  return applyOne(concatOperator, [first, ...rest], { axis: along, dim: dim ?? addDims(...parts.map((part) => part.shape[along]!)) })
}

const splitOperator: Operator<{ axis: number, sizes: readonly Dim[] }> = {
  name: 'split',
  infer: ([x], { axis, sizes }) => sizes.map((size) => ({ dtype: x!.dtype, shape: x!.shape.with(axis, size) })),
  emit: onnx('Split', ({ axis }) => ({ axis: { i: axis } })),
  vjp ({ inputs: [x], outputs, attributes: { axis } }, gradients) {
    return [concat(outputs.map((output, i) => gradients[i] ?? zerosLike(output)), axis, x!.shape[axis]), undefined]
  }
}

/** Cuts a value along an axis. `lengths` (int64 [parts]) gives the sizes at run time where `sizes` names new symbolic ones. */
export function split (x: Value, sizes: readonly Dim[], axis: number, lengths?: Value): readonly Value[] {
  if (sizes.length === 1) return [x]
  const along = positiveAxis(x.shape, axis)
  if (typeof x.shape[along] === 'number' && sizes.every((size) => typeof size === 'number') && addDims(...sizes) !== x.shape[along]) {
    throw new GraphError(`split cannot cut ${format(x.shape)} into ${format(sizes)} along axis ${along}`, 'the parts must add up')
  }
  return apply(splitOperator, x.graph, [x, lengths ?? shapeTensor(x.graph, sizes)], { axis: along, sizes })
}

export interface ReduceAttributes {
  /** null means all. */
  readonly axes: readonly number[] | null
  readonly keepDims: boolean
}

export function reducedShape (shape: readonly Dim[], { axes, keepDims }: ReduceAttributes): readonly Dim[] {
  if (axes === null) return keepDims ? shape.map(() => 1) : []
  return shape.flatMap((dim, axis) => axes.includes(axis) ? (keepDims ? [1] : []) : [dim])
}

export function emitReduction (opType: string): Operator<ReduceAttributes>['emit'] {
  return ({ inputs: [x], outputs: [y], attributes: { axes, keepDims } }, emitter) => {
    const operands = axes === null ? [emitter.name(x!)] : [emitter.name(x!), emitter.constant(int64s(axes))]
    emitter.node(opType, operands, [emitter.name(y!)], { keepdims: { i: Number(keepDims) } })
  }
}

/** Returns the gradient of a reduction that kept no axes, with them as size 1 again, ready to broadcast. */
export function restoreAxes (g: Value, x: Value, { axes }: ReduceAttributes): Value {
  return axes === null ? g : reshape(g, reducedShape(x.shape, { axes, keepDims: true }))
}

/** Repeats a value to the shape of another. */
export function expandTo (x: Value, like: Value): Value {
  return isAnyShape(like.shape) ? applyOne(expandLikeOperator, [x, like], null) : expand(x, like.shape)
}

const expandLikeOperator: Operator<null> = {
  name: 'expandLike',
  infer: ([x, like]) => [{ dtype: x!.dtype, shape: like!.shape }],
  emit ({ inputs: [x, like], outputs: [y] }, emitter) {
    const shape = emitter.fresh()
    emitter.node('Shape', [emitter.name(like!)], [shape])
    emitter.node('Expand', [emitter.name(x!), shape], [emitter.name(y!)])
  },
  vjp: ({ inputs: [x] }, [g]) => [sumTo(g!, x!.shape), undefined]
}

const reduceSumOperator: Operator<ReduceAttributes> = {
  name: 'reduceSum',
  infer: ([x], attributes) => [{ dtype: x!.dtype, shape: reducedShape(x!.shape, attributes) }],
  emit: emitReduction('ReduceSum'),
  vjp: ({ inputs: [x], attributes }, [g]) => [expandTo(restoreAxes(g!, x!, attributes), x!)]
}

/** Sums over axes, or over all of them. */
export function reduceSum (x: Value, axes: readonly number[] | 'all' = 'all', keepDims = false): Value {
  return applyOne(reduceSumOperator, [x], reduceAttributes(x, axes, keepDims))
}

export function reduceAttributes (x: Value, axes: readonly number[] | 'all', keepDims: boolean): ReduceAttributes {
  return { axes: axes === 'all' ? null : axes.map((axis) => positiveAxis(x.shape, axis)), keepDims }
}

/** Returns the derivative of broadcasting: sums a gradient over the axes that were repeated to reach its shape. */
export function sumTo (g: Value, shape: readonly Dim[]): Value {
  if (sameShape(g.shape, shape) || !isFloat(g)) return g
  if (shape.length === 0) return reduceSum(g)
  const extra = g.shape.length - shape.length
  const repeated = g.shape.flatMap((dim, axis) => axis < extra || shape[axis - extra] !== dim ? [axis] : [])
  return reshape(reduceSum(g, repeated, true), shape)
}
