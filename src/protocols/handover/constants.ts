/** The protocol id. The version changes when a message's meaning does. */
export const HANDOVER_PROTOCOL = '/midspan/handover/1.0.0'

/** Bytes of the secret by which a server claims a client's session with the next one. */
export const SECRET_BYTES = 32

/** Servers that hand a sequence over to one another: more than any route has. */
export const MAX_CHAIN_SERVERS = 64

/** Encoded size of a message without its tensors: a time for each server, and a few integers. */
export const MAX_MESSAGE_BYTES = 512

/** Values, and a scale per row. */
export const MAX_TENSORS = 2

/** Sequences of all clients that one server hands over to another at once: a connection has 32 streams, some of them for other work. */
export const MAX_HANDOVER_STREAMS = 24

/** How long a session waits for the server before it: the client opens that one's session next. */
export const CLAIM_TIMEOUT_MS = 30_000
