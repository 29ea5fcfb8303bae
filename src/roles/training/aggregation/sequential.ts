/** Who takes part in the next round. `client-batch`: every member; `sequential`: the member after the one whose turn was last. */
export function participants (strategy: 'client-batch' | 'sequential', members: readonly string[], lastTurn: string | undefined): string[] {
  const ordered = [...members].sort()
  const [first] = ordered
  if (strategy === 'client-batch' || first === undefined) return ordered
  return [ordered.find((peer) => lastTurn === undefined || peer > lastTurn) ?? first]
}
