/** The protocol id. The version changes when a message's meaning does. */
export const STAGE_PROTOCOL = '/midspan/stage/1.0.0'

/** A coordinator has one stream; a second one is opened where the first broke and the worker has not noticed yet. */
export const MAX_STAGE_STREAMS = 2

/**
 * Tokens in one message, unless a single client's batch has more: enough for products to be as fast as they get, and at most 64 MiB of a
 * model with 8,192 hidden units in fp16, so that a stage does not wait long for the first of them.
 */
export const MAX_STAGE_TOKENS = 4096

/** Clients in one message: each has at least one token. */
export const MAX_STAGE_ITEMS = MAX_STAGE_TOKENS

/** A client's name in a batch: a peer id has 52 to 64 characters. */
export const MAX_ITEM_ID_CHARS = 128

/** The name of a pass that dropout is seeded by: three words and two numbers. */
export const MAX_DROPOUT_SEED_CHARS = 128

/** Encoded size of a message without its tensors: 4,096 items of one token each, or names of the adapters of hundreds of blocks. */
export const MAX_MESSAGE_BYTES = 2 * 1024 * 1024

/** Adapters are sent in parts of at most this many bytes, or of one tensor where that alone has more. */
export const MAX_ADAPTER_PART_BYTES = 64 * 1024 * 1024

/** Tensors in one part: fourteen of each block, of a model with hundreds of blocks. */
export const MAX_TENSORS = 16_384
