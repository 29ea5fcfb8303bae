import type { DeviceTensor } from '../../../model/runtime/device.ts'
import type { Tensor } from '../../../tensor.ts'
import type { NamedTensors } from '../participant.ts'
import type { TrainingPlan } from '../plan.ts'
import type { AcceptedUpdate } from '../update.ts'
import { clipsTogether, FederatedAdapters, nothing, type FederatedAdaptersComponents } from './federated-adapters.ts'
import type { AdapterShape, ClientAdapters, ClientStrategy, RoundEnd, StepTaken } from './strategy.ts'

/** Personal ends: the server steps the middle, and every client its own blocks, which nobody else hears of. */
export class PersonalAggregation extends FederatedAdapters {
  readonly collectsNorms: boolean

  constructor (components: FederatedAdaptersComponents) {
    super(components)
    this.collectsNorms = clipsTogether(components.plan)
  }

  expectedFrom (): readonly AdapterShape[] {
    return []
  }

  stateFor (): NamedTensors {
    return nothing
  }

  protected async takeStep (
    round: number,
    gradients: ReadonlyMap<string, DeviceTensor>,
    accepted: readonly AcceptedUpdate[],
    coefficient: number | undefined
  ): Promise<StepTaken> {
    return {
      scale: await this.stepMiddle(round, gradients, accepted, coefficient),
      for: () => nothing,
      tensors: await this.c.parameters.state(),
      unaveragedTokens: {}
    }
  }
}

/** A client with personal ends: it steps its own blocks, and keeps the step where its work counted. */
export class PersonalClient implements ClientStrategy {
  readonly sharesAdapters = false
  readonly stepsItself = true
  readonly tellsGradientNorm: boolean

  constructor (plan: TrainingPlan) {
    this.tellsGradientNorm = clipsTogether(plan)
  }

  async contribution (
    _round: number,
    _adapters: ClientAdapters,
    _gradients: ReadonlyMap<string, DeviceTensor>,
    _unaveragedTokens: number
  ): Promise<ReadonlyMap<string, Tensor>> {
    return new Map()
  }

  async finish (adapters: ClientAdapters, { counted }: RoundEnd): Promise<void> {
    await (counted ? adapters.promote() : adapters.revert())
  }
}
