// What families put their blocks together from.
import type { Value } from '../graph/graph.ts'
import { add, mul, silu, split } from '../graph/operators/index.ts'
import type { BlockBuilder } from './family.ts'

/** A part of a block: x [rows, hidden] → [rows, hidden]. */
export type Part = (b: BlockBuilder, x: Value) => Value

/** Computes attention and MLP, each on the normalised sum of all before it and added to that sum. */
export function preNormBlock (attend: Part, feed: Part): Part {
  return (b, hidden) => {
    const middle = b.keep(add(hidden, attend(b, b.norm('input_layernorm', hidden))))
    return add(middle, feed(b, b.norm('post_attention_layernorm', middle)))
  }
}

export function attention (b: BlockBuilder, x: Value): Value {
  return b.linear(
    'self_attn.o_proj',
    b.attention(b.linear('self_attn.q_proj', x), b.linear('self_attn.k_proj', x), b.linear('self_attn.v_proj', x))
  )
}

/** Computes attention whose queries, keys and values come from one module: all queries, then all keys, then all values. */
export function fusedAttention (qkv: string, out: string): Part {
  return (b, x) => {
    const { heads, kvHeads, headSize } = b.model
    const [q, k, v] = split(b.linear(qkv, x), [heads * headSize, kvHeads * headSize, kvHeads * headSize], 1)
    return b.linear(out, b.attention(q!, k!, v!))
  }
}

/** Computes SwiGLU (https://arxiv.org/abs/2002.05202). */
export function gatedMlp (b: BlockBuilder, x: Value): Value {
  const gate = b.keep(b.linear('mlp.gate_proj', x))
  const up = b.keep(b.linear('mlp.up_proj', x))
  return b.linear('mlp.down_proj', mul(silu(gate), up))
}

/** Computes SwiGLU whose gate and values come from one module, gate first. */
export function fusedGatedMlp (gateUp: string, down: string): Part {
  return (b, x) => {
    const fused = b.keep(b.linear(gateUp, x))
    const inner = Number(fused.shape[1]) / 2
    const [gate, up] = split(fused, [inner, inner], 1)
    return b.linear(down, mul(silu(gate!), up!))
  }
}
