import { MidspanError } from '../../errors.ts'

/**
 * A charter that does not follow the format. `field` is the path of the first value that is wrong, or empty for the document itself;
 * `reason` says what of it.
 */
export class CharterInvalidError extends MidspanError {
  static readonly code = 'E_CHARTER_INVALID'
  readonly field: string
  readonly reason: string

  constructor (field: string, reason: string, options: { readonly cause?: unknown, readonly next?: string } = {}) {
    super(CharterInvalidError.code, `the charter cannot be used: ${field === '' ? '' : `${field}: `}${reason}`, {
      next: 'ask the founding server for its charter again',
      ...options
    })
    this.field = field
    this.reason = reason
  }
}

/**
 * Thrown for a charter with a field that this release does not know. A newer release wrote it, and what the field means could change what
 * the federation computes, so that it is not ignored.
 */
export class CharterFieldError extends CharterInvalidError {
  constructor (field: string) {
    super(field, 'this release does not know the field: a newer release of Midspan founded the federation', {
      next: 'install the release of Midspan that the federation uses'
    })
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
