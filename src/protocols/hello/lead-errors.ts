import { MidspanError } from '../../errors.ts'

/** Thrown for a claim to lead that does not hold. */
export class LeadError extends MidspanError {
  constructor (reason: string) {
    super('E_LEAD', `a server's word that it leads does not hold: ${reason}`, {
      next: 'only the founder, or a server with its mandate (midspan entrust), can lead'
    })
  }
}
