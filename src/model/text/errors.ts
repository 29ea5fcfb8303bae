import { MidspanError } from '../../errors.ts'

/** A directory's tokenizer or chat template cannot be used. */
export class TokenizerError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_TOKENIZER', message, { next, cause })
  }
}

/** A data file holds nothing to train on. */
export class DatasetError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_DATASET', message, { next, cause })
  }
}
