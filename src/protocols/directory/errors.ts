import { MidspanError } from '../../errors.ts'

/** Why an announcement is refused; each is its own error code. */
export const ANNOUNCEMENT_FAULTS = {
  invalid: 'E_ANNOUNCEMENT_INVALID',
  signature: 'E_ANNOUNCEMENT_SIGNATURE',
  federation: 'E_ANNOUNCEMENT_FEDERATION',
  peer: 'E_ANNOUNCEMENT_PEER',
  span: 'E_ANNOUNCEMENT_SPAN',
  expired: 'E_ANNOUNCEMENT_EXPIRED',
  replayed: 'E_ANNOUNCEMENT_REPLAYED',
  full: 'E_DIRECTORY_FULL'
} as const

export type AnnouncementFault = keyof typeof ANNOUNCEMENT_FAULTS

const nextSteps: Readonly<Record<AnnouncementFault, string>> = {
  invalid: 'install the release of Midspan that the federation uses',
  signature: 'announce with the identity that the connection has',
  federation: 'join the federation that the server belongs to',
  peer: 'announce with the identity that the connection has',
  span: 'serve blocks that the federation\'s servers serve: see midspan servers',
  expired: 'set the clocks of both machines',
  replayed: 'set the clock of the machine, and wait five minutes',
  full: 'ask the founder to remove servers that are not needed'
}

/** Thrown for what a server says of itself and cannot be taken into the directory. */
export class AnnouncementError extends MidspanError {
  readonly fault: AnnouncementFault

  constructor (fault: AnnouncementFault, reason: string) {
    super(ANNOUNCEMENT_FAULTS[fault], `the announcement is refused: ${reason}`, { next: nextSteps[fault] })
    this.fault = fault
  }
}

/** Thrown at a member that sends more messages than the rate allows. */
export class DirectoryRateError extends MidspanError {
  constructor () {
    super('E_BUSY', 'too many messages about the directory came from this peer', { next: 'wait a minute, then try again', retryable: true })
  }
}
