import { MidspanError } from '../../errors.ts'
import type { Model } from '../families/family.ts'

/** Thrown for a token that the model does not have: its tokenizer is another model's. */
export class VocabularyError extends MidspanError {
  constructor (id: number, size: number) {
    super('E_VOCABULARY', `token ${id} is not in the model's vocabulary of ${size}`, {
      next: 'use the tokenizer that belongs to the model'
    })
  }
}

/** Devices do not check what they look up, or not alike. Throws VocabularyError. */
export function checkTokens ({ vocabularySize }: Pick<Model, 'vocabularySize'>, ids: ArrayLike<number>): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!
    if (!(id >= 0 && id < vocabularySize)) throw new VocabularyError(id, vocabularySize)
  }
}
