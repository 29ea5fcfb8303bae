import { accumulate } from '../../../model/layers/gradient-sum.ts'
import { sequencesOf } from '../../../model/layers/hidden-states.ts'
import type { Boundary } from '../../../model/privacy/boundary.ts'
import type { AnyTensor, Device, DeviceTensor } from '../../../model/runtime/device.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import type { OwnTokens } from '../../../model/text/own-tokens.ts'
import type { BottomActivations, ClientModel, Loss } from '../../../model/training/client-model.ts'
import { gateGradient, joinOwnStream, ownLayout, scaled } from '../../../model/training/own-stream.ts'
import type { Tensor } from '../../../tensor.ts'

export interface OwnStreamComponents {
  readonly device: Device
  readonly model: ClientModel
  readonly boundary: Boundary
  /** How much of what the middle adds goes to withheld tokens, [hidden]. */
  readonly gate: AnyTensor
}

/** What went through the middle, in the encoding of the wire: what left, and what came back. */
export interface Answered {
  readonly released: readonly Tensor[]
  readonly back: readonly Tensor[]
}

/** How a pass of a client's own stream counts. */
export interface OwnPassOptions {
  /** What gradients are multiplied by, so that they weigh as the tokens do that were sent. */
  readonly scale: number
  /** The seed of dropout. */
  readonly seed: string
}

interface OwnPassParts {
  readonly loss: Loss
  readonly gradients: Map<string, DeviceTensor>
  readonly gate: DeviceTensor
  readonly hidden: DeviceTensor
  readonly activations: BottomActivations
}

/**
 * A pass of a client's own stream, with the words that it withholds, after its other words went through the middle. Nothing of it leaves.
 * What the middle added counts as given: the gradient that went up is of the words alone that were sent.
 */
export class OwnPass implements Disposable {
  readonly loss: Loss
  readonly #c: OwnStreamComponents
  #parts: OwnPassParts | undefined

  private constructor (components: OwnStreamComponents, parts: OwnPassParts) {
    this.#c = components
    this.#parts = parts
    this.loss = parts.loss
  }

  /** Computes the loss over all tokens, and its gradients. The caller disposes of the pass. */
  static async learn (
    components: OwnStreamComponents,
    own: OwnTokens,
    { released, back }: Answered,
    { scale, seed }: OwnPassOptions
  ): Promise<OwnPass> {
    const { device, model: { bottom, top }, boundary, gate } = components
    using scope = new Scope(device)
    const sequences = sequencesOf(bottom.span.model, own.ids)
    const { hidden, residuals } = await bottom.forward(own.ids, { keepResiduals: true, seed })
    scope.own(hidden)
    if (residuals === undefined) throw new Error('a training pass kept no residuals')
    try {
      const layout = ownLayout(own)
      const delta = scope.own(await boundary.computed(await boundary.adding(released, await boundary.decoding(back))))
      const whole = scope.own(await joinOwnStream(device, hidden, delta, gate, layout))
      const { gradient, gradients, ...loss } = await top.train({ hidden: whole, ...sequences }, own.targets, { seed })
      const all = await scaled(device, new Map([...gradients, [HIDDEN, gradient]]), scale)
      const scaledGradient = scope.own(all.get(HIDDEN)!)
      all.delete(HIDDEN)
      try {
        const parts = { loss, gradients: all, gate: await gateGradient(device, delta, scaledGradient, layout), hidden: scaledGradient }
        scope.release([scaledGradient])
        return new OwnPass(components, { ...parts, activations: residuals })
      } catch (error) {
        device.free(...all.values())
        throw error
      }
    } catch (error) {
      residuals.free()
      throw error
    }
  }

  /** Ends the pass. Returns the gradients of what the client trains and that of the gate, which the caller frees. */
  async finish (): Promise<{ readonly gradients: Map<string, DeviceTensor>, readonly gate: DeviceTensor }> {
    const parts = this.#parts
    if (parts === undefined) throw new Error('the pass is finished')
    const { device, model: { bottom } } = this.#c
    const { gradients, gate, hidden, activations } = parts
    this.#parts = undefined
    try {
      await accumulate(device, gradients, await bottom.backward(activations, hidden))
      return { gradients, gate }
    } catch (error) {
      device.free(gate, ...gradients.values())
      throw error
    } finally {
      device.free(hidden)
    }
  }

  [Symbol.dispose] (): void {
    const parts = this.#parts
    this.#parts = undefined
    if (parts === undefined) return
    parts.activations.free()
    this.#c.device.free(parts.hidden, parts.gate, ...parts.gradients.values())
  }
}

/** Names the gradient of what the top began with, beside those of trained tensors. */
const HIDDEN = ' hidden'

/** Computes what the top begins with in a client's own stream [own rows, hidden], without gradients. The caller frees the result. */
export async function ownHidden (
  { device, model: { bottom }, boundary, gate }: OwnStreamComponents,
  own: OwnTokens,
  { released, back }: Answered
): Promise<DeviceTensor> {
  using scope = new Scope(device)
  const { hidden } = await bottom.forward(own.ids, { keepResiduals: false })
  // Where nothing was sent, the client is on its own.
  if (released.length === 0) return hidden
  scope.own(hidden)
  const delta = scope.own(await boundary.computed(await boundary.adding(released, await boundary.decoding(back))))
  return await joinOwnStream(device, hidden, delta, gate, ownLayout(own))
}
