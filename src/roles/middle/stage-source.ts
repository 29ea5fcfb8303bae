import type { Span } from '../../span.ts'
import type { Stage } from './stage.ts'

/** A stage that was chosen for a part of a route. */
export interface ChosenStage {
  /** Names the server, for people and for `leaveOut`. */
  readonly server: string
  /** The blocks of the part, all of which the stage has. */
  readonly span: Span
  readonly stage: Pick<Stage, 'openCache'>
  /** Whether the server failed a short time ago or cannot be reached now. */
  readonly isDoubtful: boolean
  /** What one of many tokens takes by what the server says of itself, in milliseconds; undefined where nothing was measured. */
  readonly tokenMs?: number | undefined
}

/** Where the stages of a route come from. */
export interface StageSource {
  /** Chooses stages for a span, in order, each beginning where the one before ends; undefined where nobody serves some of its blocks. */
  choose (span: Span): readonly ChosenStage[] | undefined
  /** Returns whether stages without this server cover a span, and none of them is doubtful. */
  hasOther (span: Span, server: string): boolean
  /** Returns the blocks of a span that nobody serves who is not doubtful. */
  missing (span: Span): readonly Span[]
  /** Takes a server for doubtful for a while, because it failed. */
  leaveOut (server: string, error: unknown): void
  /** Calls back when `choose` may return something else. Returns how to stop that. */
  onChanged (listener: () => void): () => void
}

/** Stages that are always the same, such as those of one device. */
export class FixedStages implements StageSource {
  readonly #stages: readonly Stage[]
  readonly #failed = new Set<string>()

  constructor (stages: readonly Stage[]) {
    this.#stages = stages
  }

  choose (span: Span): readonly ChosenStage[] {
    return this.#stages.flatMap((stage, index) => {
      const server = `stage ${index}`
      return partsOf(span, stage).map((part) => ({ server, span: part, stage, isDoubtful: this.#failed.has(server) }))
    })
  }

  hasOther (): boolean {
    return false
  }

  missing (span: Span): readonly Span[] {
    return this.choose(span).filter(({ isDoubtful }) => isDoubtful).map((chosen) => chosen.span)
  }

  leaveOut (server: string): void {
    this.#failed.add(server)
  }

  onChanged (): () => void {
    return () => {}
  }
}

/** Returns the part of a span that a stage computes: one, or none. */
export function partsOf<Part extends Span> (span: Part, { span: { first, end } }: Pick<Stage, 'span'>): Part[] {
  const part = { ...span, first: Math.max(span.first, first), end: Math.min(span.end, end) }
  return part.first < part.end ? [part] : []
}
