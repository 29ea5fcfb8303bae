import { MidspanError } from '../../errors.ts'

/**
 * A charter that does not follow the format. `field` is the path of the first value that is wrong, or empty for the document itself;
 * `reason` says what of it.
 */
export class CharterInvalidError extends MidspanError {
  static readonly code = 'E_CHARTER_INVALID'
  readonly field: string
  readonly reason: string

  constructor (field: string, reason: string, cause?: unknown) {
    super(CharterInvalidError.code, `the charter cannot be used: ${field === '' ? '' : `${field}: `}${reason}`,
      { next: 'ask the founding server for its charter again', ...(cause === undefined ? {} : { cause }) })
    this.field = field
    this.reason = reason
  }
}

/** A charter whose signature is not its founder's. */
export class CharterSignatureError extends MidspanError {
  static readonly code = 'E_CHARTER_SIGNATURE'

  constructor (reason: string) {
    super(CharterSignatureError.code, `the charter is not its founder's: ${reason}`, {
      next: 'do not join; ask the founder which federation id is theirs'
    })
  }
}

/** A charter, or a protocol it names, of a version this release does not speak. */
export class CharterVersionError extends MidspanError {
  static readonly code = 'E_CHARTER_VERSION'
  readonly field: string

  constructor (field: string, theirs: unknown, ours: unknown) {
    super(CharterVersionError.code, `the charter's ${field} is ${JSON.stringify(theirs)}, and this release speaks ${JSON.stringify(ours)}`,
      { next: 'install the release of Midspan that the federation uses' })
    this.field = field
  }
}

/** A client's setting that its federation's charter does not allow. */
export class SettingRefusedError extends MidspanError {
  static readonly code = 'E_SETTING_REFUSED'
  readonly field: string

  constructor (field: string, reason: string) {
    super(SettingRefusedError.code, `${field} is outside the charter: ${reason}`, { next: `change ${field} to what the charter allows` })
    this.field = field
  }
}
