import type { Waiting } from '../../../protocols/train/train_pb.ts'
import { blocksText } from '../../../span.ts'

/** Spans that are named of those that a server says. */
const MAX_NAMED_SPANS = 8

/** Says why there is nothing to do yet, by what the server says of it. */
export function waitingReason ({ members, needed, sitsOutRounds, missing }: Waiting): string {
  if (missing.length > 0) {
    const more = missing.length > MAX_NAMED_SPANS ? ` and ${missing.length - MAX_NAMED_SPANS} more spans` : ''
    return `the round waits for ${blocksText(missing.slice(0, MAX_NAMED_SPANS))}${more}: nobody serves them`
  }
  if (members < needed) return `the federation has ${members} of the ${needed} members that a round needs`
  if (sitsOutRounds > 0)
    return `this client missed or held up several rounds in a row, and sits out ${
      sitsOutRounds === 1 ? 'one round' : `${sitsOutRounds} rounds`
    }`
  return 'the next round begins when this one is over'
}
