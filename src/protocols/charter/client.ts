import { PROTOCOL_VERSIONS } from './constants.ts'
import { CharterVersionError, SettingRefusedError } from './errors.ts'
import type { Charter, Partition } from './schema.ts'

/** What a client chooses for itself within a charter. */
export interface ClientSettings {
  readonly partition: Partition
  /** Scale of the noise on hidden states, relative to the clip. */
  readonly noise: number
  /** Scale of the noise on gradients, relative to the clip. */
  readonly gradientNoise: number
  /** Whether the residual stream stays with the client; unless given, where noise or a clip changes what leaves. */
  readonly keepStream?: boolean | undefined
  readonly wire: Charter['wire']
}

/** Throws SettingRefusedError, naming the field, for the first setting that the charter does not allow. */
export function checkClientSettings (charter: Charter, settings: ClientSettings): void {
  checkPartition(charter, settings.partition)
  checkNoise(charter, 'noise', settings.noise)
  checkNoise(charter, 'gradientNoise', settings.gradientNoise)
  if (settings.wire !== charter.wire)
    throw new SettingRefusedError('wire', `it is ${settings.wire}, and the federation uses ${charter.wire}`)
}

/** Throws SettingRefusedError when the charter does not allow this partition. */
function checkPartition (charter: Charter, partition: Partition): void {
  for (const field of ['inputBlocks', 'outputBlocks'] as const) {
    const { min, max } = charter.partitions[field]
    const blocks = partition[field]
    if (!Number.isInteger(blocks) || blocks < min || blocks > max) {
      throw new SettingRefusedError(field, `it is ${blocks}, and the federation allows ${min === max ? min : `${min} to ${max}`}`)
    }
  }
}

function checkNoise (charter: Charter, field: 'noise' | 'gradientNoise', scale: number): void {
  const floor = charter.privacy[field]
  if (!Number.isFinite(scale) || scale < floor)
    throw new SettingRefusedError(field, `it is ${scale}, and the least the federation allows is ${floor}`)
  if (charter.privacy.clip === null && scale > 0)
    throw new SettingRefusedError(field, `it is ${scale}, and a federation without clip norms cannot scale noise`)
}

/** Throws CharterVersionError, naming the protocol, unless this release speaks every protocol of the charter. */
export function checkProtocols (charter: Charter, ours: Readonly<Record<string, string>> = PROTOCOL_VERSIONS): void {
  for (const [protocol, version] of Object.entries(charter.protocols)) {
    if (major(ours[protocol]) !== major(version)) throw new CharterVersionError(`protocols.${protocol}`, version, ours[protocol] ?? 'none')
  }
}

/** Every partition the charter allows. */
export function allowedPartitions (charter: Pick<Charter, 'partitions'>): Partition[] {
  const { inputBlocks, outputBlocks } = charter.partitions
  const all: Partition[] = []
  for (let i = inputBlocks.min; i <= inputBlocks.max; i++) {
    for (let o = outputBlocks.min; o <= outputBlocks.max; o++) all.push({ inputBlocks: i, outputBlocks: o })
  }
  return all
}

function major (version: string | undefined): string | undefined {
  return version?.split('.')[0]
}
