import type { Replicas } from '../hierarchy/replicas.ts'
import type { TrainingPlan } from '../plan.ts'
import { AveragedAggregation, AveragedClient } from './average.ts'
import type { FederatedAdapters, FederatedAdaptersComponents } from './federated-adapters.ts'
import { HierarchicalAggregation } from './hierarchical.ts'
import { PersonalAggregation, PersonalClient } from './personal.ts'
import { AllMembers, Sequential } from './sequential.ts'
import { SharedAggregation, SharedClient } from './shared.ts'
import type { AggregationStrategy, ClientSelection, ClientStrategy } from './strategy.ts'

/** What a plan's ends mean for the server and for clients. */
export interface Aggregation {
  /** Whether the server holds the adapters of every block, those of its clients' blocks included. */
  readonly serverHoldsEnds: boolean
  readonly client: ClientStrategy
  /** Makes the server's strategy. */
  server (components: Omit<FederatedAdaptersComponents, 'plan' | 'selection'>): FederatedAdapters
}

/** Chooses by a plan how the work of clients is put together: the one place that decides by `ends.mode` and `strategy`. */
export function aggregationOf (plan: TrainingPlan): Aggregation {
  const { ends } = plan
  const selection = selectionOf(plan)
  switch (ends.mode) {
    case 'shared':
      return {
        serverHoldsEnds: true,
        client: new SharedClient(),
        server: (components) => new SharedAggregation({ ...components, plan, selection })
      }
    case 'average':
      return {
        serverHoldsEnds: true,
        client: new AveragedClient(plan, ends.every),
        server: (components) => new AveragedAggregation({ ...components, plan, selection }, ends.every)
      }
    case 'personal':
      return {
        serverHoldsEnds: false,
        client: new PersonalClient(plan),
        server: (components) => new PersonalAggregation({ ...components, plan, selection })
      }
  }
}

/** What the coordinator has where servers step parameters of their own. */
export interface Hierarchy {
  readonly replicas: Replicas
  /** The name that the coordinator has among the replicas. */
  readonly self: string
}

/** Makes the coordinator's strategy: that of the clients' ends, and above it that of the servers where each steps its own parameters. */
export function coordinatorStrategy (
  plan: TrainingPlan,
  components: Omit<FederatedAdaptersComponents, 'plan' | 'selection'>,
  hierarchy?: Hierarchy
): AggregationStrategy {
  const ends = aggregationOf(plan).server(components)
  if (hierarchy === undefined || plan.averageEvery === undefined) return ends
  return new HierarchicalAggregation({
    ...components, plan, selection: ends.selection, ends, every: plan.averageEvery, ...hierarchy
  })
}

function selectionOf ({ strategy, training, aggregation }: TrainingPlan): ClientSelection {
  const minClients = Math.max(training.minClients, aggregation?.mode === 'secure' ? aggregation.minContributors : 0)
  return strategy === 'sequential' ? new Sequential(minClients) : new AllMembers(minClients)
}
