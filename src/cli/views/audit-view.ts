import type { EventOf } from '../../api/operations.ts'
import { plural, table } from '../format.ts'
import type { Terminal } from '../terminal.ts'
import { auditHead, checkTable, lossTable, recoveredTable, withheldTable, type Audit, type Cells } from './audit-tables.ts'
import { foundText } from './data-found.ts'
import { ProgressLine } from './progress-line.ts'
import { leftOutTable, sweepLosses, sweepTable, type Sweep } from './sweep-tables.ts'

/** Shows how far an audit or a sweep is, and its report, as tables or as JSON. */
export class AuditView {
  readonly #terminal: Terminal
  readonly #json: boolean
  readonly #progress: ProgressLine

  constructor (terminal: Terminal, json: boolean) {
    this.#terminal = terminal
    this.#json = json
    this.#progress = new ProgressLine(terminal)
  }

  show (event: EventOf<'audit'> | EventOf<'auditSweep'>): void {
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
        if (this.#json) this.#terminal.json(withoutType(event))
        else if ('attacks' in event) this.#audit(event)
        else this.#sweep(event)
    }
  }

  end (): void {
    this.#progress.clear()
  }

  #sweep (sweep: Sweep): void {
    this.#table(sweepTable(sweep))
    this.#table(sweepLosses(sweep))
    if (sweep.leftOut.length > 0) this.#table(leftOutTable(sweep))
    for (const notice of sweep.notices) this.#terminal.line(`Note: ${notice}`)
    this.#terminal.line(sweep.meaning)
  }

  #audit (audit: Audit): void {
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

function withoutType<Result extends { readonly type: string }> ({ type: _, ...rest }: Result): Omit<Result, 'type'> {
  return rest
}
