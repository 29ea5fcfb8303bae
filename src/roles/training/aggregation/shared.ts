import { isDeviceTensor, type AnyTensor, type DeviceTensor } from '../../../model/runtime/device.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import { clippingCoefficient } from '../../../model/training/optimizer.ts'
import { stateNames } from '../../../model/training/parameters.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { NamedTensors } from '../participant.ts'
import type { AcceptedUpdate } from '../update.ts'
import { FederatedAdapters, nothing, pick } from './federated-adapters.ts'
import { blockOf, type AdapterShape, type ClientAdapters, type ClientStrategy, type RoundEnd, type StepTaken } from './strategy.ts'

/** Shared ends: every holder of a block adds its gradient and takes the same step. It is data parallelism, exactly. */
export class SharedAggregation extends FederatedAdapters {
  /** The server has the gradients themselves. */
  readonly collectsNorms = false

  /** Gradients of the client's own blocks. */
  expectedFrom (middle: Span): readonly AdapterShape[] {
    return this.endsOf(middle)
  }

  /** The adapters and the optimiser's moments of a client that missed a step. */
  stateFor (middle: Span, clientRound: number): NamedTensors {
    const { state } = this.c
    return clientRound < state.round ? pick(state.tensors, this.endsOf(middle).flatMap(({ name }) => stateNames(name))) : nothing
  }

  protected async takeStep (
    round: number,
    middleGradients: ReadonlyMap<string, DeviceTensor>,
    accepted: readonly AcceptedUpdate[]
  ): Promise<StepTaken> {
    const { plan, device, optimizer, parameters } = this.c
    using scope = new Scope(device)
    const sums = await this.#summed(scope, middleGradients, accepted)
    const tokens = accepted.reduce((total, { tokens }) => total + tokens, 0)
    const coefficient = clippingCoefficient(await optimizer.norm(sums.values()) / tokens, plan.training.maxGradientNorm)
    const scale = coefficient / tokens
    await parameters.step(optimizer, sums, { learningRate: this.learningRate(round), scale })
    const gradients = await this.#download(sums)
    return {
      scale,
      for: (middle) => pick(gradients, this.endsOf(middle).map(({ name }) => name)),
      tensors: await parameters.state(),
      unaveragedTokens: {}
    }
  }

  /**
   * Sums the gradients of all holders of each block: the server's first, then the clients' in the order of their ids. Where only one holder
   * has a gradient, that gradient is the sum.
   */
  async #summed (
    scope: Scope,
    middleGradients: ReadonlyMap<string, DeviceTensor>,
    accepted: readonly AcceptedUpdate[]
  ): Promise<Map<string, AnyTensor>> {
    const { optimizer } = this.c
    const gradients = new Map<string, AnyTensor[]>([...middleGradients].map(([name, gradient]) => [name, [gradient]]))
    for (const { contribution } of accepted) {
      for (const [name, gradient] of contribution) {
        const before = gradients.get(name)
        if (before === undefined) gradients.set(name, [gradient])
        else before.push(gradient)
      }
    }
    const sums = new Map<string, AnyTensor>()
    for (const [name, own] of gradients) {
      const [only, ...others] = own as [AnyTensor, ...AnyTensor[]]
      const isAlone = others.length === 0
      sums.set(name, isAlone ? only : scope.own(await optimizer.weightedTotal(own.map((value) => ({ value, weight: 1 })))))
    }
    return sums
  }

  /** Copies the sums that some client's blocks may need to the host. */
  async #download (tensors: ReadonlyMap<string, AnyTensor>): Promise<Map<string, Tensor>> {
    const { plan: { partitions: { inputBlocks, outputBlocks }, model: { blocks } }, device } = this.c
    const shared = [...tensors].filter(([name]) => blockOf(name) < inputBlocks.max || blockOf(name) >= blocks - outputBlocks.max)
    const held = shared.flatMap(([name, value]) => isDeviceTensor(value) ? [[name, value] as const] : [])
    const downloaded = await device.downloadAll(held.map(([, value]) => value))
    const onHost = new Map(held.map(([name], index) => [name, downloaded[index] as Tensor]))
    return new Map(shared.map(([name, value]) => [name, isDeviceTensor(value) ? onHost.get(name) as Tensor : value]))
  }
}

/** A client with shared ends: it hands in gradients, and takes the step that everybody takes. */
export class SharedClient implements ClientStrategy {
  readonly sharesAdapters = true
  readonly stepsItself = false
  readonly tellsGradientNorm = false

  async contribution (
    _round: number,
    adapters: ClientAdapters,
    gradients: ReadonlyMap<string, DeviceTensor>
  ): Promise<ReadonlyMap<string, Tensor>> {
    return await adapters.download(gradients)
  }

  /** Takes the step whether or not the client's work is in it: the federation's adapters are its own. */
  async finish (adapters: ClientAdapters, { tensors, scale, learningRate }: RoundEnd): Promise<void> {
    await adapters.step(tensors, { scale, learningRate })
  }
}
