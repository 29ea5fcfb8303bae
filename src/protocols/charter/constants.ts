/** The version of the charter's own format. A reader refuses every other. */
export const CHARTER_VERSION = 1

/** Bytes of a federation's id, which is the SHA-256 of its charter. */
export const FEDERATION_ID_BYTES = 32

/** What a founder signs starts with this, so that the signature means nothing elsewhere. */
export const CHARTER_SIGNATURE_DOMAIN = 'midspan/charter/1\0'

/** A signed charter of a model of 2,000 tensors takes about 400 KiB; twenty times that leaves room for larger ones. */
export const MAX_CHARTER_BYTES = 8 * 2 ** 20

/** Configurations nest three or four levels deep; deeper ones only cost a reader stack. */
export const MAX_CHARTER_DEPTH = 16

/** The largest real models have a few hundred blocks and a few thousand tensors. */
export const MAX_BLOCKS = 4096
export const MAX_TENSORS = 65_536

/** Tokenizer and configuration files of a model directory: about ten. */
export const MAX_FILES = 64

/** Contributors of a secure sum: of a sum of two each knows what the other one added, and above the most a round has several sums. */
export const SECURE_CONTRIBUTORS = { least: 3, most: 128 } as const

/** The versions of the protocols this release speaks, by protocol name. A charter records them; peers compare them. */
export const PROTOCOL_VERSIONS = {
  hello: '1.0.0',
  weights: '1.0.0',
  status: '1.0.0',
  train: '1.0.0',
  generate: '1.0.0'
} as const

export type ProtocolName = keyof typeof PROTOCOL_VERSIONS

/** The libp2p protocol id of one of Midspan's protocols. */
export function protocolId (name: ProtocolName): string {
  return `/midspan/${name}/${PROTOCOL_VERSIONS[name]}`
}
