import type { ResultOf } from '../../api/operations.ts'
import type { Asked } from './federation.ts'

/** What the network answered: each clinic to all questions, before and after training. */
export interface NetworkResults {
  readonly before: readonly Asked[]
  readonly trained: ReadonlyArray<ResultOf<'train'>>
  readonly after: readonly Asked[]
  readonly sample: Sample
}

/** One text, generated twice. */
export interface Sample {
  readonly undisturbed: ResultOf<'generate'>
  /** The same text, while a server that carried it was killed. */
  readonly survived: ResultOf<'generate'>
  /** The peer id of that server. */
  readonly killed: string
}

/** What one machine answers: trained on each clinic's records alone, and on all of them together. */
export interface LocalResults {
  readonly alone: ReadonlyArray<readonly string[]>
  readonly centralised: readonly string[]
}
