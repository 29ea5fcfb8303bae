import { MidspanError } from '../../errors.ts'

/** A safetensors file breaks its format, or a tensor in it cannot be read as asked. */
export class SafetensorsError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_SAFETENSORS', message, { next, cause })
  }
}

/** A model directory lacks something, or holds something that Midspan refuses. */
export class ModelDirectoryError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_MODEL_DIRECTORY', message, { next, cause })
  }
}

/** A tensor was asked for that this directory does not hold. */
export class MissingTensorError extends MidspanError {
  constructor (name: string, where: string, expected?: string) {
    super('E_TENSOR_MISSING', `${where} holds no tensor named ${name}${expected === undefined ? '' : `: ${expected}`}`)
  }
}

/** A tensor is not what the model's configuration says of it. */
export class TensorMismatchError extends MidspanError {
  constructor (name: string, where: string, what: string, next: string) {
    super('E_TENSOR_MISMATCH', `${where}: tensor ${name} ${what}`, { next })
  }
}

/** Bytes received for a client's partial model are not those that were promised, or there is no room for them. */
export class ModelStoreError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_MODEL_STORE', message, { next, cause })
  }
}

/** A PEFT adapter directory cannot be used. */
export class AdapterError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_ADAPTER', message, { next, cause })
  }
}

/** A merged model cannot be written, or did not come back as it was written. */
export class MergeError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_MERGE', message, { next, cause })
  }
}

/** Neither a training snapshot nor the one before it is intact. */
export class SnapshotError extends MidspanError {
  constructor (message: string, next?: string, cause?: unknown) {
    super('E_SNAPSHOT', message, { next, cause })
  }
}
