import { isFloat, type StoredDType } from '../checkpoint/dtypes.ts'
import { MissingTensorError, TensorMismatchError } from '../checkpoint/errors.ts'
import type { Model } from './family.ts'
import { modelWeights } from './weights.ts'

/** Tensors as somebody claims to have them: a model directory, or a charter's list. */
export interface TensorListing {
  /** What the listing is, for errors. */
  readonly path: string
  tensorNames: () => string[]
  has: (name: string) => boolean
  info: (name: string) => { readonly dtype: StoredDType, readonly shape: readonly number[] }
}

/**
 * Checks that a listing has these of a model's weights, all unless given, as real numbers in the shapes that its configuration calls for.
 * Throws MissingTensorError or TensorMismatchError.
 */
export function checkWeights (model: Model, listing: TensorListing, names?: readonly string[]): void {
  const wanted = names === undefined ? undefined : new Set(names)
  for (const { name, shape } of modelWeights(model)) {
    if (wanted?.has(name) === false) continue
    if (!listing.has(name))
      throw new MissingTensorError(
        name,
        listing.path,
        `${model.architecture} needs [${shape.join(', ')}] there${
          name === model.head ? ', unless its configuration says tie_word_embeddings' : ''
        }`
      )
    const found = listing.info(name)
    if (!isFloat(found.dtype))
      throw new TensorMismatchError(
        name,
        listing.path,
        `holds ${found.dtype} values, not real numbers`,
        'use the model in float32, float16 or bfloat16'
      )
    if (String(found.shape) !== String(shape)) {
      throw new TensorMismatchError(
        name,
        listing.path,
        `is [${found.shape.join(', ')}], and its configuration calls for [${shape.join(', ')}]`,
        'use the config.json that belongs to these weights'
      )
    }
  }
}

/**
 * Checks that a listing is exactly a model: every weight, and none that would be left out of the computation. A head that is stored
 * although it is tied may stay; its values are not looked at. Throws MissingTensorError or TensorMismatchError.
 */
export function checkModel (model: Model, listing: TensorListing): void {
  checkWeights(model, listing)
  const known = new Set([...modelWeights(model).map(({ name }) => name), model.head])
  const extra = listing.tensorNames().find((name) => !known.has(name))
  if (extra !== undefined) {
    throw new TensorMismatchError(
      extra,
      listing.path,
      `has no place in ${model.architecture} as its configuration describes it, with ${model.layers} blocks`,
      'use the config.json that belongs to these weights'
    )
  }
}

/** Checks that a head that is stored although it is tied is the embedding. `prints` are the tensors' hashes. Throws TensorMismatchError. */
export function checkTiedHead (
  { tied, head, embedding }: Model,
  where: string,
  prints: Readonly<Record<string, { readonly sha256: string }>>
): void {
  if (!tied || prints[head] === undefined || prints[head].sha256 === prints[embedding]?.sha256) return
  throw new TensorMismatchError(
    head,
    where,
    `differs from ${embedding}, and the configuration says that they are one (tie_word_embeddings)`,
    'correct tie_word_embeddings in config.json'
  )
}
