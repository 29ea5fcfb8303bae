import { isDefect, MidspanError } from '../../../errors.ts'
import { GradientSum } from '../../../model/layers/gradient-sum.ts'
import type { Device } from '../../../model/runtime/device.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { isSane } from '../../../protocols/wire/hidden-states.ts'
import { blocksText, uncovered, type Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { Logger } from '../../logger.ts'
import type { BatchItem, PassOptions } from '../../middle/stage.ts'
import type { Replicas } from '../../training/hierarchy/replicas.ts'
import type { TrainingStage } from '../../training/participant.ts'
import { DistributedPass } from './distributed-pass.ts'
import type { Holder, Holders } from './holder.ts'
import { stageFrom } from './spread.ts'

/** Thrown where a client asks for blocks that no server serves just now. */
export class BlocksMissingError extends MidspanError {
  constructor (spans: readonly Span[]) {
    super('E_BLOCKS_MISSING', missingText(spans), { next: 'try again when their server is back: see `midspan servers`', retryable: true })
  }
}

/** Says which blocks nobody serves. */
export function missingText (spans: readonly Span[]): string {
  return `${blocksText(spans)}: nobody serves them`
}

export interface DistributedStageComponents {
  /** The coordinator's device, where gradients are summed. */
  readonly device: Device
  readonly holders: Holders
  /** Who computes for whom, where servers of the same blocks have parameters of their own. */
  readonly replicas?: Replicas | undefined
  /** How long a server with parameters of its own is waited for where others have its blocks. */
  readonly replicaGraceMs?: number
  readonly logger: Logger
  /** Called when `missing` has become something else. */
  readonly missingChanged?: () => void
  /** Ends every wait. */
  readonly signal: AbortSignal
}

/** The middle of a model on several servers, the coordinator's own device among them, as the rounds of training need it. */
export class DistributedStage implements TrainingStage {
  readonly #c: DistributedStageComponents
  /** What each pass waits for. */
  readonly #missing = new Map<object, readonly Span[]>()
  #said = ''

  constructor (components: DistributedStageComponents) {
    this.#c = components
  }

  /** The blocks that a pass waits for since nobody serves them. */
  get missing (): readonly Span[] {
    return [...this.#missing.values()][0] ?? []
  }

  async forward (items: readonly BatchItem[], { dropoutSeed }: Pick<PassOptions, 'dropoutSeed'>): Promise<DistributedPass> {
    const missing = (pass: object, spans: readonly Span[]): void => { this.#note(pass, spans) }
    return await DistributedPass.start({ ...this.#c, missing }, items, dropoutSeed)
  }

  gradientSum (): GradientSum {
    return new GradientSum(this.#c.device)
  }

  /** Computes one item and saves nothing. Throws BlocksMissingError. */
  async evaluate (item: BatchItem): Promise<readonly Tensor[]> {
    const { holders } = this.#c
    let { tensors } = item
    for (let first = item.first; first < item.end;) {
      const stage = stageFrom(first, item.end, holders.available())
      if (stage === undefined) {
        const spans = holders.available().map(({ span }) => span)
        throw new BlocksMissingError(uncovered({ first, end: item.end }, spans))
      }
      const assigned = this.#c.replicas?.assigned(item.id, first)
      const holder = stage.replicas.find(({ peer }) => peer === assigned) ?? fastest(stage.replicas)
      const next = await this.#evaluateOn(holder, { ...item, first, end: stage.end, tensors })
      if (next === undefined) continue
      first = stage.end
      if (first < item.end && !isSane(next)) throw new BadMessageError('the hidden states overflow in the middle')
      tensors = next
    }
    return tensors
  }

  /** Computes an item on a holder. Undefined where the holder is lost. */
  async #evaluateOn (holder: Holder, item: BatchItem): Promise<readonly Tensor[] | undefined> {
    const { holders, signal } = this.#c
    try {
      return await holder.evaluate(item, signal)
    } catch (error) {
      signal.throwIfAborted()
      if (holder.isLocal || isDefect(error)) throw error
      holders.lost(holder, error)
      return undefined
    }
  }

  /** Notes what a pass waits for, and says it once. */
  #note (pass: object, spans: readonly Span[]): void {
    if (spans.length === 0) this.#missing.delete(pass)
    else this.#missing.set(pass, spans)
    const text = this.missing.length === 0 ? '' : missingText(this.missing)
    if (text === this.#said) return
    this.#said = text
    this.#c.missingChanged?.()
    if (text === '') this.#c.logger.info({}, 'all blocks that training waited for are served')
    else this.#c.logger.warn({}, `training waits for ${text}`)
  }
}

/** The fastest of these holders, as far as it was measured; this device before others. */
function fastest (holders: readonly Holder[]): Holder {
  const [first, ...others] = holders
  if (first === undefined) throw new RangeError('there is no holder')
  return others.reduce((best, holder) => score(holder) > score(best) ? holder : best, first)
}

function score ({ isLocal, speed = 0 }: Holder): number {
  return isLocal ? Infinity : speed
}
