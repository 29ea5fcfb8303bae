import { MICROSOFT } from '../attributes.ts'
import { GraphError } from '../errors.ts'
import type { Dim, Value } from '../graph.ts'
import { apply, applyOne, requireDType, type Operator } from '../operator.ts'
import { format } from '../shapes.ts'
import { neg } from './elementwise.ts'

export interface RotaryAttributes {
  /** Heads that lie side by side on the last axis of x. */
  readonly heads: number
  /** The first elements of each head that are turned; all when left out. */
  readonly rotaryDim?: number
  /** Pairs are neighbours (GPT-J, ChatGLM) rather than halves (LLaMA). */
  readonly interleaved?: boolean
}

const rotaryOperator: Operator<RotaryAttributes> = {
  name: 'rotaryEmbedding',
  infer ([x, positions, cos, sin]) {
    requireDType('rotaryEmbedding', positions!, 'int64')
    if (x!.shape.length !== 3 || positions!.shape.length !== 2 || cos!.shape.length !== 2 || sin!.shape.length !== 2) {
      throw new GraphError(
        `rotaryEmbedding cannot turn ${format(x!.shape)} at ${format(positions!.shape)}`,
        'x is [batch, seq, heads * headDim], positions [batch, seq], the tables [positions, rotaryDim / 2]'
      )
    }
    return [x!]
  },
  emit ({ inputs, outputs: [y], attributes: { heads, rotaryDim = 0, interleaved = false } }, emitter) {
    emitter.node('RotaryEmbedding', inputs.map(emitter.name), [emitter.name(y!)], {
      num_heads: { i: heads },
      rotary_embedding_dim: { i: rotaryDim },
      interleaved: { i: Number(interleaved) }
    }, MICROSOFT)
  },
  // The inverse of a rotation turns the other way.
  vjp: (
    { inputs: [, positions, cos, sin], attributes },
    [g]
  ) => [rotaryEmbedding(g!, positions!, cos!, neg(sin!), attributes), undefined, undefined, undefined]
}

/**
 * Rotary position embedding (https://arxiv.org/abs/2104.09864). x [batch, seq, heads * headDim]; positions int64 [batch, seq];
 * cos and sin [positions, rotaryDim / 2]. Packed rows go through as [1, rows, …]. The tables get no gradient.
 */
export function rotaryEmbedding (x: Value, positions: Value, cos: Value, sin: Value, attributes: RotaryAttributes): Value {
  return applyOne(rotaryOperator, [x, positions, cos, sin], attributes)
}

export interface GroupQueryAttentionInputs {
  /** [batch, seq, heads * headDim]. */
  readonly query: Value
  /** [batch, seq, kvHeads * headDim]. */
  readonly key: Value
  readonly value: Value
  /** [batch, kvHeads, past, headDim]. */
  readonly pastKey: Value
  readonly pastValue: Value
  /** int32 [batch]: the index of each row's last key, its length - 1. */
  readonly seqlensK: Value
  /** int32 []: the longest row's length, past and new. */
  readonly totalLength: Value
}

export interface GroupQueryAttentionAttributes {
  readonly heads: number
  readonly kvHeads: number
  /** Multiplies the scores; 1 / sqrt(headDim) when left out. */
  readonly scale?: number
  /** How many keys back each query sees; all when left out. */
  readonly localWindow?: number
  /** The length of the present cache; that of the past when left out, as when it is updated in place. */
  readonly presentLength?: Dim
}

const groupQueryAttentionOperator: Operator<GroupQueryAttentionAttributes> = {
  name: 'groupQueryAttention',
  infer ([query, , , pastKey, pastValue, seqlensK, totalLength], { presentLength }) {
    requireDType('groupQueryAttention', seqlensK!, 'int32')
    requireDType('groupQueryAttention', totalLength!, 'int32')
    const present = (past: Value) => ({
      dtype: past.dtype,
      shape: presentLength === undefined ? past.shape : past.shape.with(2, presentLength)
    })
    return [query!, present(pastKey!), present(pastValue!)]
  },
  emit ({ inputs, outputs, attributes: { heads, kvHeads, scale, localWindow } }, emitter) {
    emitter.node('GroupQueryAttention', inputs.map(emitter.name), outputs.map(emitter.name), {
      num_heads: { i: heads },
      kv_num_heads: { i: kvHeads },
      scale: scale === undefined ? undefined : { f: scale },
      local_window_size: localWindow === undefined ? undefined : { i: localWindow }
    }, MICROSOFT)
  }
}

/** Causal attention over a key/value cache, rows at positions of their own. For inference: it has no derivative. */
export function groupQueryAttention (
  inputs: GroupQueryAttentionInputs,
  attributes: GroupQueryAttentionAttributes
): { output: Value, presentKey: Value, presentValue: Value } {
  const { query, key, value, pastKey, pastValue, seqlensK, totalLength } = inputs
  const [output, presentKey, presentValue] = apply(groupQueryAttentionOperator, query.graph, [
    query,
    key,
    value,
    pastKey,
    pastValue,
    seqlensK,
    totalLength
  ], attributes)
  return { output: output!, presentKey: presentKey!, presentValue: presentValue! }
}
