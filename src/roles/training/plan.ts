import type { Schedule } from '../../model/training/learning-rate.ts'

/** What clients' own blocks have to do with one another. */
export type Ends =
  | { readonly mode: 'shared' }
  | { readonly mode: 'average', readonly every: number }
  | { readonly mode: 'personal' }

/** Whether the server sees what each client contributes of its own blocks, or the sum over clients alone. */
export type ContributionPrivacy =
  | { readonly mode: 'plain' }
  | { readonly mode: 'secure', readonly minContributors: number }

/** What a federation has agreed on about training. A charter is one. */
export interface TrainingPlan {
  /** Who takes part in a round, all members or one after the other; whether servers of the same blocks take one step, or each its own. */
  readonly strategy: 'client-batch' | 'sequential' | 'server-hierarchical'
  /** Rounds from one average of the servers' parameters to the next, where each server steps its own: `server-hierarchical`. */
  readonly averageEvery?: number | undefined
  readonly ends: Ends
  /** Plain where it is absent. */
  readonly aggregation?: ContributionPrivacy
  readonly training: {
    readonly optimizer: { readonly learningRate: number }
    readonly schedule: Schedule
    readonly maxGradientNorm: number | null
    /** Whose gradients that norm is of, where ends are not shared: each party's own, or those of all together. */
    readonly gradientNormScope: 'party' | 'global'
    /** Passes of a round. */
    readonly gradientAccumulationSteps: number
    /** How long a round waits for one participant, all of its replies together. */
    readonly roundDeadlineMs: number
    readonly minClients: number
  }
  readonly limits: { readonly maxClients: number }
  readonly model: { readonly blocks: number }
  readonly partitions: {
    readonly inputBlocks: { readonly min?: number, readonly max: number }
    readonly outputBlocks: { readonly min?: number, readonly max: number }
  }
}
