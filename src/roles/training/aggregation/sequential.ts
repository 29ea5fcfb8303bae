import type { ClientSelection } from './strategy.ts'

/** `client-batch`: every member takes part in every round. */
export class AllMembers implements ClientSelection {
  readonly #minClients: number

  constructor (minClients: number) {
    this.#minClients = minClients
  }

  needed (): number {
    return this.#minClients
  }

  participants (members: readonly string[]): string[] {
    return [...members].sort()
  }
}

/** `sequential`: members take turns in the order of their ids, one a round. */
export class Sequential implements ClientSelection {
  readonly #minClients: number

  constructor (minClients: number) {
    this.#minClients = minClients
  }

  /** After the first round one member is enough: one that is done leaves the others to their turns. */
  needed (round: number): number {
    return round > 0 ? 1 : this.#minClients
  }

  participants (members: readonly string[], lastTurn: string | undefined): string[] {
    const ordered = [...members].sort()
    const next = ordered.find((peer) => lastTurn === undefined || peer > lastTurn) ?? ordered[0]
    return next === undefined ? [] : [next]
  }
}
