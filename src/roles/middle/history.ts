import type { PromptContext } from '../../model/families/index.ts'
import { joinTensorRows, tensorRows, type Tensor } from '../../tensor.ts'
import { tokensOf, type CachedHiddenStates } from './stage.ts'

/** Returns the first `tokens` tokens of states that follow one another. */
export function firstTokens (history: readonly CachedHiddenStates[], tokens: number): CachedHiddenStates[] {
  const kept: CachedHiddenStates[] = []
  let length = 0
  for (const { tensors, context } of history) {
    if (length >= tokens) break
    const count = Math.min(tokensOf(tensors), tokens - length)
    kept.push({ tensors: tensors.map((part) => tensorRows(part, 0, count)), context })
    length += count
  }
  return kept
}

/** Joins states that follow one another, up to a number of tokens. A context's own states stay as they are: they come in one message. */
export function joined (history: readonly CachedHiddenStates[], maxTokens: number): CachedHiddenStates[] {
  const groups: CachedHiddenStates[][] = []
  let tokens = 0
  for (const states of history) {
    const group = groups.at(-1)
    const count = tokensOf(states.tensors)
    if (group === undefined || tokens + count > maxTokens || !sameContext(group[0]?.context, states.context)) {
      groups.push([states])
      tokens = count
    } else {
      group.push(states)
      tokens += count
    }
  }
  return groups.map((group) => {
    const [first, ...others] = group as [CachedHiddenStates, ...CachedHiddenStates[]]
    if (others.length === 0) return first
    const tensors = first.tensors.map((_, part) => joinTensorRows(group.map((states) => states.tensors[part] as Tensor)))
    return { tensors, context: first.context }
  })
}

function sameContext (a: PromptContext | undefined, b: PromptContext | undefined): boolean {
  return a?.length === b?.length && a?.maskPosition === b?.maskPosition
}
