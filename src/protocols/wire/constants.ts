const KiB = 2 ** 10
const MiB = 2 ** 20

/** Plaintext bytes of one sealed record. Up to 1 MiB the cipher's output stays in warm memory; larger ones pay for fresh pages. */
export const RECORD_BYTES = MiB

/** The authentication tag of AES-GCM, at its full length. */
export const TAG_BYTES = 16

/** What one stream may have in flight: 64 MiB carries 1 GB/s over a round trip of 60 ms. A setting of the node's muxer. */
export const MAX_STREAM_WINDOW_BYTES = 64 * MiB

/**
 * Larger than the window: otherwise a peer that fills the window of a paused reader makes its stream fail. A setting of the node's muxer.
 */
export const MAX_READ_BUFFER_BYTES = MAX_STREAM_WINDOW_BYTES + 2 * MiB

/** Bytes queued above the stream at which it is paused: enough that a reader never starves between two events. */
export const PAUSE_AT_BYTES = 4 * MiB

/** Bytes queued above the stream at which it is resumed. */
export const RESUME_AT_BYTES = MiB

/** What a queued piece counts for at least: a peer may send its bytes one by one, and a view of one takes as much. */
export const MIN_PIECE_BYTES = 256

/** A sealed frame's header is five small fields, at most 34 bytes; unknown fields of later versions still fit. */
export const MAX_FRAME_HEADER_BYTES = 128

/** No tensor of a transformer has more dimensions. */
export const MAX_TENSOR_RANK = 8

/** An encoded tensor header: an element type and eight dimensions of at most five bytes each, with their tags. */
export const MAX_TENSOR_HEADER_BYTES = 64

/** Tensors start at multiples of this within a body, so that they can be viewed in place as any element type. */
export const TENSOR_ALIGNMENT_BYTES = 8

/** Raw bytes beside one control message: the unit in which files are carried. */
export const MAX_CONTROL_PAYLOAD_BYTES = MiB

/** A control message unless its protocol sets a limit of its own. */
export const MAX_CONTROL_MESSAGE_BYTES = 256 * KiB

/** A handshake message holds a few keys and signatures. */
export const MAX_HANDSHAKE_MESSAGE_BYTES = 4 * KiB

/** A failure's message, as told to a peer and as believed from one. */
export const MAX_FAILURE_MESSAGE_CHARS = 500

/**
 * The last frame of a session holds nothing, or a failure: a code of 62 characters, a message of up to three bytes a character, and their
 * tags.
 */
export const MAX_LAST_WORDS_BYTES = 2 * KiB

/**
 * Keys are replaced after this much plaintext: far below the 2^32 records of 1 MiB at which AES-GCM with counters must stop (NIST SP
 * 800-38D).
 */
export const REKEY_AFTER_BYTES = 16 * 2 ** 30

/** Keys are replaced after this long, so that a stolen key opens at most an hour. */
export const REKEY_AFTER_MS = 3_600_000

/** One and a half round trips and a few milliseconds of arithmetic, on a slow link behind other traffic. */
export const HANDSHAKE_TIMEOUT_MS = 30_000

/**
 * Between two messages a peer may compute, or wait for others, for minutes. A peer that is gone is noticed sooner: the node measures
 * whether its connection lives.
 */
export const IDLE_TIMEOUT_MS = 5 * 60_000

/** A frame that was begun goes on: its bytes are made already, and only a network or a hostile peer holds them back. */
export const STALL_TIMEOUT_MS = 60_000

/** A control request is answered from memory or a disk. */
export const CONTROL_TIMEOUT_MS = 60_000

/** How long a closing end waits for the peer's goodbye before it lets go of the stream. */
export const CLOSE_TIMEOUT_MS = 5_000

/**
 * How long a failing end has to finish the frame that it is sending and to have its reason read, before it resets the stream. A frame of
 * 5 MB takes this long at 1 MB/s.
 */
export const ABORT_TIMEOUT_MS = 5_000
