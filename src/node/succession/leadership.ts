import { isNewerLead, verifyLead, type Lead, type LeadScope } from '../../protocols/hello/index.ts'
import type { Logger } from '../../roles/context.ts'
import { replaceFile } from '../home/home.ts'

export interface LeadershipOptions {
  /** Where the record is kept. */
  readonly path: string
  readonly scope: LeadScope
  /** What the home knew at the start. */
  readonly lead: Lead
  readonly logger: Logger
  /** Called when another server leads, or the same one in a later term. The record is kept by then. */
  readonly onChanged: (lead: Lead) => void
}

/** Who leads, as far as this peer has heard: takes over newer terms, and keeps them before it acts by them. */
export class Leadership {
  readonly #options: LeadershipOptions
  #lead: Lead
  #last: Promise<void> = Promise.resolve()

  constructor (options: LeadershipOptions) {
    this.#options = options
    this.#lead = options.lead
  }

  get lead (): Lead { return this.#lead }

  /** Looks at a record that a peer sent, after those before it. What does not hold, or is not newer, changes nothing. */
  hear (bytes: Uint8Array): void {
    void this.take(bytes)
  }

  /** Resolves when a record was looked at. */
  async take (bytes: Uint8Array): Promise<void> {
    const mine = this.#last.then(async () => { await this.#take(bytes) })
    this.#last = mine
    await mine
  }

  async #take (bytes: Uint8Array): Promise<void> {
    const { path, scope, logger, onChanged } = this.#options
    try {
      const before = this.#lead
      if (before.bytes !== undefined && Buffer.from(before.bytes).equals(bytes)) return
      const lead = await verifyLead(bytes, scope)
      if (!isNewerLead(lead, before)) return
      await replaceFile(path, bytes)
      this.#lead = lead
      if (lead.peer === before.peer && lead.term === before.term) return
      logger.warn({ peer: lead.peer, term: lead.term }, 'another server leads from now on')
      onChanged(lead)
    } catch (error) {
      logger.warn({ err: error }, 'what a peer says of who leads is not taken over')
    }
  }
}
