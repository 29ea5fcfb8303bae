/** The protocol id. The version changes when a message's meaning does. */
export const GENERATE_PROTOCOL = '/midspan/generate/1.0.0'

/** Encoded size of a message without its tensors: a few integers with two peers and secrets, or with a time for each server. */
export const MAX_MESSAGE_BYTES = 512

/** Values, and a scale per row. */
export const MAX_TENSORS = 2

/** Sequences that one connection may have open at once. */
export const MAX_GENERATE_STREAMS = 4
