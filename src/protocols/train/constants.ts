/** The protocol id. The version changes when a message's meaning does. */
export const TRAIN_PROTOCOL = '/midspan/train/1.0.0'

/** A client holds one stream for training and one for evaluation or adapters at a time; more are a fault or an attack. */
export const MAX_TRAIN_STREAMS = 4

/** Sequences a client may put in one round: bounds the lengths a message carries, far above any useful batch. */
export const MAX_SEQUENCES = 4096

/** Encoded size of a message without its tensors: lengths and adapter names (about 40 bytes each) of a model with hundreds of blocks. */
export const MAX_MESSAGE_BYTES = 2 * 1024 * 1024

/** Tensors beside one message: two a LoRA pair, seven pairs a block, three states each, of a model with 200 blocks. */
export const MAX_TENSORS = 16_384
