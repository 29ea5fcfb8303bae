import { GraphError } from '../errors.ts'
import type { Value } from '../graph.ts'
import { applyOne, requireDType, type Operator } from '../operator.ts'
import { format, sameShape } from '../shapes.ts'
import { mul, neg } from './elementwise.ts'
import { gatherElements, scatterElements } from './indexing.ts'
import { reshape } from './layout.ts'
import { logSumExp, softmax } from './reduction.ts'

const crossEntropyOperator: Operator<null> = {
  name: 'crossEntropy',
  infer ([logits, targets, logNormalizer, chosen]) {
    requireDType('crossEntropy', targets!, 'int32', 'int64')
    if (logits!.shape.length !== 2 || !sameShape(targets!.shape, logits!.shape.slice(0, 1))) {
      throw new GraphError(
        `crossEntropy cannot compare ${format(logits!.shape)} with ${format(targets!.shape)}`,
        'logits are [rows, vocabulary], targets [rows]'
      )
    }
    return [{ dtype: logNormalizer!.dtype, shape: chosen!.shape }]
  },
  emit ({ inputs: [, , logNormalizer, chosen], outputs: [y] }, emitter) {
    emitter.node('Sub', [emitter.name(logNormalizer!), emitter.name(chosen!)], [emitter.name(y!)])
  },
  // softmax - one-hot, in two passes over the logits; the parts' own rules would take four.
  vjp ({ inputs: [logits, targets] }, [g]) {
    const column = reshape(g!, [g!.shape[0]!, 1])
    return [
      scatterElements(mul(softmax(logits!), column), reshape(targets!, column.shape), neg(column), 1),
      undefined,
      undefined,
      undefined
    ]
  }
}

/** -log softmax(logits)[target] for logits [rows, vocabulary] and targets [rows], each within the vocabulary: [rows]. */
export function crossEntropy (logits: Value, targets: Value): Value {
  const [rows = 1] = targets.shape
  const chosen = reshape(gatherElements(logits, reshape(targets, [rows, 1]), 1), [rows])
  return applyOne(crossEntropyOperator, [logits, targets, logSumExp(logits, [1]), chosen], null)
}
