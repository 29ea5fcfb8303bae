import type { EventOf } from '../../api/operations.ts'
import { plural, table } from '../format.ts'
import type { Terminal } from '../terminal.ts'
import { auditHead, checkTable, lossTable, recoveredTable, withheldTable, type Audit, type Cells } from './audit-tables.ts'
import { foundText } from './data-found.ts'
import { ProgressLine } from './progress-line.ts'

/** Shows how far an audit is, and its report, as tables or as JSON. */
export class AuditView {
  readonly #terminal: Terminal
  readonly #json: boolean
  readonly #progress: ProgressLine

  constructor (terminal: Terminal, json: boolean) {
    this.#terminal = terminal
    this.#json = json
    this.#progress = new ProgressLine(terminal)
  }

  show (event: EventOf<'audit'>): void {
    switch (event.type) {
      case 'start':
        for (const line of foundText(event.data)) this.#terminal.note(line)
        this.#terminal.note(`Attacking ${plural(event.tokens, 'token')} of ${plural(event.records, 'record')}, on this machine alone`)
        break
      case 'progress':
        this.#progress.draw(`${event.work}: ${event.done} of ${event.total}`)
        break
      case 'result':
        this.end()
        this.#result(event)
    }
  }

  end (): void {
    this.#progress.clear()
  }

  #result (audit: Audit): void {
    const { type: _, ...result } = audit
    if (this.#json) return this.#terminal.json(result)
    this.#terminal.line(auditHead(audit))
    this.#table(recoveredTable(audit))
    const withheld = withheldTable(audit)
    if (withheld !== undefined) this.#table(withheld)
    const losses = lossTable(audit)
    if (losses !== undefined) this.#table(losses)
    this.#table(checkTable(audit))
    for (const notice of audit.notices) this.#terminal.line(`Note: ${notice}`)
    this.#terminal.line(audit.meaning)
  }

  #table (cells: Cells): void {
    const [head = '', ...lines] = table(cells)
    this.#terminal.line(this.#terminal.bold(head))
    for (const line of lines) this.#terminal.line(line)
  }
}
