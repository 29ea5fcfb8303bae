/** What decides which elements adapters do not see in a pass of a round: the same on both sides, and the same when the pass is taken again. */
export function dropoutSeed (round: number, pass: number): string {
  return pass === 0 ? `round/${round}` : `round/${round}/${pass}`
}
