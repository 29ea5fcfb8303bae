import { UsageError } from '../../errors.ts'
import type { Charter } from '../../protocols/charter/index.ts'
import { servableSpan } from '../../roles/charter-settings.ts'
import { commonSpan, parseSpan, spanText, type Span } from '../../span.ts'

/** The parts of a charter that say where a model is cut. */
type Cut = Parameters<typeof servableSpan>[0]

/**
 * Returns the blocks that a server of a federation serves when its operator names these: those of them that some client does not compute
 * itself. Throws UsageError for blocks that the model does not have, and for a span of which no server serves a block.
 */
export function servedSpan (charter: Cut, named: Span): Span {
  const { blocks } = charter.model
  const servable = servableSpan(charter)
  if (named.end > blocks)
    throw new UsageError(
      `the blocks ${spanText(named)} are outside the model, which has ${blocks}`,
      `name blocks within ${spanText(servable)}`
    )
  const served = commonSpan(named, servable)
  if (served === undefined)
    throw new UsageError(
      `the blocks ${spanText(named)} are computed by every client itself`,
      `name blocks within ${spanText(servable)}, which servers serve`
    )
  return served
}

/**
 * Returns the blocks that a home's server serves, by the `blocks` of its settings. A founder's server serves all that can be served where
 * they name none. Throws UsageError.
 */
export function spanOfSettings (charter: Charter, blocks: string | undefined, isFounder: boolean): Span {
  const named = blocks === undefined ? undefined : parseSpan(blocks)
  if (named !== undefined) return servedSpan(charter, named)
  if (isFounder) return servableSpan(charter)
  throw new UsageError('the home does not say which blocks this server serves', 'add `blocks: FIRST-END` to its config.yaml')
}
