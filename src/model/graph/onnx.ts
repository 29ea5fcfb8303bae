import { create, toBinary, type MessageInitShape } from '@bufbuild/protobuf'
import { bytesOf, bytesPerElement, elementCount, type DType, type Tensor } from '../../tensor.ts'
import { MICROSOFT, type Attribute, type Attributes } from './attributes.ts'
import { GraphError } from './errors.ts'
import { isAnyShape, type Emitter, type Node, type Value } from './graph.ts'
import {
  ModelProtoSchema,
  type AttributeProtoSchema,
  type NodeProtoSchema,
  type TensorProtoSchema,
  type ValueInfoProtoSchema
} from './onnx_pb.ts'
import type { Section } from './section.ts'

/**
 * Checked with onnxruntime 1.30 on CPU and WebGPU, where nearly every operator used here then runs on the device (Round falls back to CPU);
 * the file version it came with.
 */
const OPSET = 21n
const IR_VERSION = 10n
const MICROSOFT_OPSET = 1n

/** ONNX's TensorProto.DataType. */
const ELEMENT_TYPE: Record<DType, number> = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, bool: 9, float16: 10, uint32: 12 }

/** ONNX's AttributeProto.AttributeType. */
const ATTRIBUTE_TYPE = { FLOAT: 1, INT: 2, STRING: 3, TENSOR: 4, INTS: 7 }

/** ONNX's TensorProto.DataLocation. */
const EXTERNAL = 1

/** Smaller constants stand in the file itself, where onnxruntime's shape inference and folding can read them. */
const EXTERNAL_FROM_BYTES = 1024

/** An ONNX file and the bytes of its large initializers, by the paths it refers to them by. */
export interface OnnxModel {
  readonly model: Uint8Array
  readonly externalData: Array<{ path: string, data: Uint8Array }>
  /** Names of the nodes that read or write float16, which not every GPU computes with. */
  readonly float16Nodes: readonly string[]
}

/** A tensor, or the type of one whose bytes whoever opens the file has under its name. */
export type Constant = Tensor | Omit<Tensor, 'data'>

/** Writes a part of a graph as an ONNX file; inputs named in `constants` become initializers. */
export function emitModel (name: string, section: Section, constants: Readonly<Record<string, Constant>>): OnnxModel {
  const externalData: OnnxModel['externalData'] = []
  const initializers = Object.entries(constants).map(([input, value]) => {
    if ('data' in value) {
      if (bytesOf(value).byteLength < EXTERNAL_FROM_BYTES) return inlineTensor(input, value)
      externalData.push({ path: input, data: bytesOf(value) })
    }
    return externalTensor(input, value)
  })
  const { nodes, initializers: inner, float16Nodes } = emitNodes(section)
  const model = create(ModelProtoSchema, {
    irVersion: IR_VERSION,
    producerName: 'midspan',
    opsetImport: [{ domain: '', version: OPSET }, { domain: MICROSOFT, version: MICROSOFT_OPSET }],
    graph: {
      name,
      node: nodes,
      initializer: [...initializers, ...inner],
      input: [...section.inputs].filter(([, input]) => constants[input] === undefined).map(([value, input]) => valueInfo(input, value)),
      output: [...section.outputs].map(([output, value]) => valueInfo(output, value))
    }
  })
  return { model: toBinary(ModelProtoSchema, model), externalData, float16Nodes }
}

type NodeInit = MessageInitShape<typeof NodeProtoSchema>
type TensorInit = MessageInitShape<typeof TensorProtoSchema>

function emitNodes ({ graph, nodes, inputs, outputs }: Section): { nodes: NodeInit[], initializers: TensorInit[], float16Nodes: string[] } {
  const written: Array<NodeInit & { name: string }> = []
  const float16Nodes: string[] = []
  let intermediates = 0
  const initializers = new Map<string, TensorInit>()
  const computed = new Set(nodes.flatMap((node) => node.outputs))
  const read = new Set([...nodes.flatMap((node) => node.inputs), ...outputs.values()])
  const names = new Map<Value, string>(inputs)
  for (const [name, value] of outputs) if (computed.has(value) && !names.has(value)) names.set(value, name)

  const nameOf = (value: Value) => {
    const constant = graph.constantOf(value)
    const name = names.get(value) ?? `#${value.id}`
    if (constant !== undefined) initializers.set(name, inlineTensor(name, constant))
    return name
  }
  const node: Emitter['node'] = (opType, from, to, attributes = {}, domain = '') => {
    written.push({
      opType,
      domain,
      input: [...from],
      output: [...to],
      name: `${opType} ${written.length}`,
      attribute: attributeInits(attributes)
    })
  }
  const emitterFor = ({ outputs: own }: Node): Emitter => ({
    node,
    // A value that comes in as an input may be computed again beside another output of its node.
    name: (value) => own.includes(value) && inputs.has(value) ? `#${value.id}` : nameOf(value),
    uses: (value) => read.has(value) && !inputs.has(value),
    fresh: () => `#inner.${intermediates++}`,
    constant: (value) => nameOf(graph.constant(value)),
    holderOf (dim) {
      for (const [value, name] of inputs) if (value.shape.includes(dim)) return { name, axis: value.shape.indexOf(dim) }
      throw new GraphError(`no input of the program has the size ${dim}`, 'declare an input that has it')
    }
  })
  for (const each of nodes) {
    const first = written.length
    each.emit(emitterFor(each))
    if ([...each.inputs, ...each.outputs].some(({ dtype }) => dtype === 'float16'))
      float16Nodes.push(...written.slice(first).map(({ name }) => name))
  }
  for (const [name, value] of outputs) if (names.get(value) !== name) node('Identity', [nameOf(value)], [name])
  return { nodes: written, initializers: [...initializers.values()], float16Nodes }
}

function attributeInits (attributes: Attributes): Array<MessageInitShape<typeof AttributeProtoSchema>> {
  return Object.entries(attributes).flatMap(([name, attribute]) => attribute === undefined ? [] : [{ name, ...attributeInit(attribute) }])
}

function attributeInit (attribute: Attribute): MessageInitShape<typeof AttributeProtoSchema> {
  if ('i' in attribute) return { type: ATTRIBUTE_TYPE.INT, i: BigInt(attribute.i) }
  if ('f' in attribute) return { type: ATTRIBUTE_TYPE.FLOAT, f: attribute.f }
  if ('s' in attribute) return { type: ATTRIBUTE_TYPE.STRING, s: new TextEncoder().encode(attribute.s) }
  if ('ints' in attribute) return { type: ATTRIBUTE_TYPE.INTS, ints: attribute.ints.map(BigInt) }
  if ('dtype' in attribute) return { type: ATTRIBUTE_TYPE.INT, i: BigInt(ELEMENT_TYPE[attribute.dtype]) }
  return { type: ATTRIBUTE_TYPE.TENSOR, t: inlineTensor('', attribute.t) }
}

function tensorType (name: string, { dtype, shape }: Constant) {
  return { name, dataType: ELEMENT_TYPE[dtype], dims: shape.map(BigInt) }
}

function inlineTensor (name: string, value: Tensor): TensorInit {
  return { ...tensorType(name, value), rawData: bytesOf(value) }
}

function externalTensor (path: string, value: Constant): TensorInit {
  const length = String(elementCount(value.shape) * bytesPerElement[value.dtype])
  return {
    ...tensorType(path, value),
    dataLocation: EXTERNAL,
    externalData: [{ key: 'location', value: path }, { key: 'offset', value: '0' }, { key: 'length', value: length }]
  }
}

function valueInfo (name: string, { dtype, shape }: Value): MessageInitShape<typeof ValueInfoProtoSchema> {
  const elemType = ELEMENT_TYPE[dtype]
  if (isAnyShape(shape)) return { name, type: { tensorType: { elemType } } }
  const dim = shape.map((size) => typeof size === 'number' ? { dimValue: BigInt(size) } : { dimParam: size })
  return { name, type: { tensorType: { elemType, shape: { dim } } } }
}
