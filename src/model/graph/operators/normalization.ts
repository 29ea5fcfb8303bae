import { GraphError } from '../errors.ts'
import type { Value } from '../graph.ts'
import { apply, applyOne, onnx, type Operator } from '../operator.ts'
import { format } from '../shapes.ts'
import { add, mul, reciprocal, sqrt, sub } from './elementwise.ts'
import { sumTo } from './layout.ts'
import { reduceMean } from './reduction.ts'

function requireWeight (name: string, x: Value, weight: Value): void {
  if (weight.shape.length !== 1 || weight.shape[0] !== x.shape.at(-1) || weight.dtype !== x.dtype) {
    throw new GraphError(
      `${name} cannot scale ${x.dtype} ${format(x.shape)} by ${weight.dtype} ${format(weight.shape)}`,
      'the weight has one element for each on the last axis'
    )
  }
}

const rmsNormOperator: Operator<{ epsilon: number }> = {
  name: 'rmsNorm',
  infer ([x, weight]) {
    requireWeight('rmsNorm', x!, weight!)
    return [x!]
  },
  emit: onnx('SimplifiedLayerNormalization', ({ epsilon }) => ({ axis: { i: -1 }, epsilon: { f: epsilon }, stash_type: { i: 1 } })),
  // With h = x / rms: dx = (g w - h mean(g w h)) / rms.
  vjp ({ inputs: [x, weight], attributes: { epsilon } }, [g]) {
    const inverse = inverseRms(x!, epsilon)
    const normalized = mul(x!, inverse)
    const scaled = mul(g!, weight!)
    const dx = mul(sub(scaled, mul(normalized, reduceMean(mul(scaled, normalized), [-1], true))), inverse)
    return [dx, sumTo(mul(g!, normalized), weight!.shape)]
  }
}

/** 1/rms [..., 1]. Not the fused kernel's second output: on WebGPU onnxruntime 1.30 puts the mean there. */
function inverseRms (x: Value, epsilon: number): Value {
  return reciprocal(sqrt(add(reduceMean(mul(x, x), [-1], true), epsilon)))
}

/**
 * Root mean square normalisation over the last axis (https://arxiv.org/abs/1910.07467): the result, and 1/rms [..., 1] for those who save
 * it.
 */
export function rmsNorm (x: Value, weight: Value, epsilon: number): { output: Value, inverseRms: Value } {
  return { output: applyOne(rmsNormOperator, [x, weight], { epsilon }), inverseRms: inverseRms(x, epsilon) }
}

const layerNormOperator: Operator<{ epsilon: number }> = {
  name: 'layerNorm',
  infer ([x, weight, bias]) {
    requireWeight('layerNorm', x!, weight!)
    requireWeight('layerNorm', x!, bias!)
    const statistic = { dtype: 'float32', shape: x!.shape.with(-1, 1) } as const
    return [x!, statistic, statistic]
  },
  emit ({ inputs, outputs: [y, mean, inverse], attributes: { epsilon } }, emitter) {
    const statistics = emitter.uses(mean!) || emitter.uses(inverse!) ? [emitter.name(mean!), emitter.name(inverse!)] : []
    emitter.node('LayerNormalization', inputs.map(emitter.name), [emitter.name(y!), ...statistics], {
      axis: { i: -1 },
      epsilon: { f: epsilon }
    })
  },
  // With h = (x - mean) / deviation: dx = (g w - mean(g w) - h mean(g w h)) / deviation.
  vjp ({ inputs: [x, weight, bias], outputs: [, mean, inverse] }, [g, gMean, gInverse]) {
    if (g === undefined || gMean !== undefined || gInverse !== undefined)
      throw new GraphError('layerNorm has no derivative for its statistics', 'compute them from x where they matter')
    const normalized = mul(sub(x!, mean!), inverse!)
    const scaled = mul(g, weight!)
    const centered = sub(scaled, reduceMean(scaled, [-1], true))
    const dx = mul(sub(centered, mul(normalized, reduceMean(mul(scaled, normalized), [-1], true))), inverse!)
    return [dx, sumTo(mul(g, normalized), weight!.shape), sumTo(g, bias!.shape)]
  }
}

/** Layer normalisation over the last axis (https://arxiv.org/abs/1607.06450): the result, and the mean and 1/deviation [..., 1]. */
export function layerNorm (x: Value, weight: Value, bias: Value, epsilon: number): { output: Value, mean: Value, inverseDeviation: Value } {
  const [output, mean, inverseDeviation] = apply(layerNormOperator, x.graph, [x, weight, bias], { epsilon })
  return { output: output!, mean: mean!, inverseDeviation: inverseDeviation! }
}
