/** What decides which elements adapters do not see in a pass of a round: the same when the pass is taken again. */
export function dropoutSeed (round: number, pass: number): string {
  return pass === 0 ? `round/${round}` : `round/${round}/${pass}`
}

/** The same for one client's rows: they do not depend on who else is in the pass, and clients drop out independently of one another. */
export function clientDropoutSeed (passSeed: string, peer: string): string {
  return `${passSeed}/${peer}`
}
