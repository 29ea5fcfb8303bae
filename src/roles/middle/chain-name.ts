const ARROW = ' → '

/** Names servers that hand over to one another, for people and for those who leave them out. */
export function chainName (servers: readonly string[]): string {
  return servers.join(ARROW)
}

/** Returns the servers in the name of a chain; one for the name of a single server. */
export function serversOf (name: string): string[] {
  return name.split(ARROW)
}

/** Returns the pairs of neighbours in the name of a chain, as the names of chains of two; none for a single server. */
export function pairsOf (name: string): string[] {
  const servers = serversOf(name)
  return servers.slice(1).map((server, index) => chainName([servers[index]!, server]))
}
