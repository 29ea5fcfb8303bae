import { ignoredTarget } from '../../src/model/text/batches.ts'
import { readGolden, type AdamWSettings, type EncodedTensor, type ModelGolden } from './golden.ts'

/** What the formulas of the original ChatGLM-6B give for one small model (test/reference/chatglm_golden.py). */
export interface ChatGLMGolden extends Omit<ModelGolden, 'decoded'> {
  /** Of each sequence of `ids`; `positions` in the text of all of its tokens but the last. */
  readonly contexts: ReadonlyArray<{ readonly contextLength: number, readonly maskPosition: number, readonly positions: readonly number[] }>
  /** The ids that follow each prompt. */
  readonly greedy: ReadonlyArray<readonly number[]>
  readonly training: {
    readonly ids: ReadonlyArray<readonly number[]>
    readonly adamw: AdamWSettings
    readonly sequencesPerStep: number
    /** Mean loss per token of the answers, before each step. */
    readonly losses: readonly number[]
    /** By `${layer}.${module}.lora_A` or `.lora_B`. */
    readonly final: Readonly<Record<string, EncodedTensor>>
  }
}

export const chatglmRevisions = ['130528', '150528'] as const

export function readChatGLMGolden (revision: typeof chatglmRevisions[number]): ChatGLMGolden {
  return readGolden<ChatGLMGolden>(`chatglm/${revision}.json`)
}

/** The token that ends a prompt, in these models. */
export const SOP = 104

/** The prompt of a sequence, sop included. */
export function promptOf (ids: readonly number[]): number[] {
  return ids.slice(0, ids.indexOf(SOP) + 1)
}

/** Sequences as inputs and targets: the answers with the token that ends them. */
export function answersOf (sequences: ReadonlyArray<readonly number[]>): { ids: number[][], targets: number[][] } {
  return {
    ids: sequences.map(ids => ids.slice(0, -1)),
    targets: sequences.map(ids => ids.slice(1).map((id, i) => i < ids.indexOf(SOP) ? ignoredTarget : id))
  }
}
