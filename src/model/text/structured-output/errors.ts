import { MidspanError } from '../../../errors.ts'

/** Thrown for a form that no text can be kept to. */
export class OutputFormatError extends MidspanError {
  constructor (message: string, next?: string) {
    super('E_OUTPUT_FORMAT', message, { next })
  }
}
