import type { DType } from '../../tensor.ts'
import type { Attributes } from './attributes.ts'
import { GraphError } from './errors.ts'
import { isAnyShape, type Dim, type Emitter, type Gradients, type Graph, type Value, type ValueType } from './graph.ts'

/** One application of an operator, as its rules see it. */
export interface Call<A> {
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
  readonly attributes: A
}

/** Everything Midspan knows about an operation: the type of its result, how ONNX writes it, and its derivative. */
export interface Operator<A> {
  readonly name: string
  /** The types of the outputs. Throws GraphError where the operands do not fit. */
  readonly infer: (inputs: readonly Value[], attributes: A) => readonly ValueType[]
  readonly emit: (call: Call<A>, emitter: Emitter) => void
  /** Gradients of the outputs (at least one is defined) → gradients of the inputs. Left out where there is no derivative. */
  readonly vjp?: (call: Call<A>, gradients: Gradients) => Gradients
  /** The symbolic size that the operator reads from whichever program input has it. */
  readonly reads?: (attributes: A) => string | undefined
}

/** Applies an operator to values of one graph; attributes must survive JSON, which tells equal applications apart from others. */
export function apply<A> (operator: Operator<A>, graph: Graph, inputs: readonly Value[], attributes: A): readonly Value[] {
  const { name, infer, emit, vjp, reads } = operator
  return graph.add({
    name,
    inputs,
    key: JSON.stringify(attributes),
    types: infer(inputs, attributes),
    build (outputs) {
      const call = { inputs, outputs, attributes }
      const read = reads?.(attributes)
      return {
        emit: (emitter) => { emit(call, emitter) },
        ...(vjp === undefined ? {} : { vjp: (gradients: Gradients) => vjp(call, gradients) }),
        ...(read === undefined ? {} : { reads: read })
      }
    }
  })
}

/** Applies an operator that has inputs and one output. */
export function applyOne<A> (operator: Operator<A>, inputs: readonly [Value, ...Value[]], attributes: A): Value {
  return apply(operator, inputs[0].graph, inputs, attributes)[0]!
}

/** Returns the emission of operators that are one ONNX node with the same operands. */
export function onnx<A> (opType: string, attributes: (attributes: A) => Attributes = () => ({}), domain = ''): Operator<A>['emit'] {
  return (call, emitter) => {
    emitter.node(opType, call.inputs.map(emitter.name), call.outputs.map(emitter.name), attributes(call.attributes), domain)
  }
}

export function requireDType (name: string, value: Value, ...allowed: readonly DType[]): void {
  if (!allowed.includes(value.dtype))
    throw new GraphError(`${name} takes ${allowed.join(' or ')}, not ${value.dtype}`, 'cast the operand first')
}

export function isFloat (value: ValueType): boolean {
  return value.dtype === 'float32' || value.dtype === 'float16'
}

/** Returns an axis counted from the front. Throws GraphError when the shape has no such axis, or when nobody knows whether it has. */
export function positiveAxis (shape: readonly Dim[], axis: number): number {
  if (isAnyShape(shape)) throw new GraphError(`a value of any shape has no axis ${axis} for certain`, 'declare its input with a shape')
  const positive = axis < 0 ? axis + shape.length : axis
  if (!Number.isInteger(positive) || positive < 0 || positive >= shape.length)
    throw new GraphError(`a value of shape [${shape.join(', ')}] has no axis ${axis}`, 'count axes from 0, or from -1 at the end')
  return positive
}
