import type { Ed25519PrivateKey, PeerId } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { z } from 'zod'
import { MAX_WEIGHT } from '../../api/invite.ts'
import { UsageError } from '../../errors.ts'
import { verifyCharter, type SignedCharter } from '../../protocols/charter/index.ts'
import { peerIdSchema } from '../../protocols/charter/schema.ts'
import { emptyAdmission, firstLead, verifyLead, type AdmissionState, type Lead } from '../../protocols/hello/index.ts'
import { NoFederationError, readIfPresent, replaceFile, type Home } from '../home/home.ts'
import { loadIdentity } from '../home/identity.ts'

/** A home's membership: who it is, and of what. */
export interface Membership {
  readonly key: Ed25519PrivateKey
  readonly peerId: PeerId
  readonly signed: SignedCharter
  /** Who leads, as far as the home knows. */
  readonly lead: Lead
}

/** A server that a member knows. */
export interface KnownAddress {
  readonly peerId: string
  readonly addresses: readonly string[]
}

/** A server as a home keeps it. */
export interface SavedServer extends KnownAddress {
  /** Its signed announcement, in base64; absent for a server of which the home knows no more than its addresses. */
  readonly announcement?: string | undefined
}

/** What a home keeps of what the founder signed for it. */
export interface SavedProof {
  /** In base64. */
  readonly certificate?: string | undefined
  /** In base64: servers only. */
  readonly revocations?: string | undefined
  /** In base64: a server that may lead one day. */
  readonly mandate?: string | undefined
}

const base64Schema = z.base64()
const serversSchema = z.array(
  z.strictObject({ peerId: peerIdSchema, addresses: z.array(z.string()), announcement: base64Schema.optional() })
)
const proofSchema = z.strictObject({
  certificate: base64Schema.optional(), revocations: base64Schema.optional(), mandate: base64Schema.optional()
})

const mandatesSchema = z.record(peerIdSchema, base64Schema)

const roleSchema = z.enum(['client', 'server'])

const admissionSchema = z.strictObject({
  peers: z.record(
    peerIdSchema,
    z.strictObject({
      role: roleSchema,
      how: z.enum(['invite', 'allow-list', 'open', 'certificate']),
      at: z.iso.datetime(),
      weight: z.int().min(1).max(MAX_WEIGHT).optional()
    })
  ),
  invites: z.record(z.string().regex(/^[0-9a-f]{32}$/), z.strictObject({
    expiresAtMs: z.number(),
    usedBy: z.array(peerIdSchema),
    role: roleSchema.optional(),
    uses: z.int().optional(),
    issuedAtMs: z.number().optional(),
    revoked: z.boolean().optional()
  })),
  /** A home of before peers could be removed for good has none. */
  removed: z.record(peerIdSchema, z.number()).default({}),
  /** A home of before members had certificates has none. */
  left: z.record(peerIdSchema, z.number()).default({})
})

/** Reads and checks what a home belongs to. Throws NoFederationError, or the charter's errors. */
export async function readMembership (home: Home): Promise<Membership> {
  const bytes = await readIfPresent(home.charter)
  const key = await loadIdentity(home.identity)
  if (bytes === undefined || key === undefined) throw new NoFederationError(home.root)
  const signed = await verifyCharter(bytes)
  return { key, peerId: peerIdFromPrivateKey(key), signed, lead: await readLead(home, signed) }
}

/** Reads who leads. Throws LeadError for a file that is damaged. */
export async function readLead (home: Home, { id, charter: { founder } }: SignedCharter): Promise<Lead> {
  const bytes = await readIfPresent(home.lead)
  return bytes === undefined ? firstLead(founder) : await verifyLead(bytes, { federation: id, founder })
}

/** Reads the mandates that a founder gave, by peer id. */
export async function readMandates (home: Home): Promise<Map<string, Uint8Array>> {
  const saved = await readJson(home.mandates, mandatesSchema) ?? {}
  return new Map(Object.entries(saved).map(([peer, text]) => [peer, new Uint8Array(Buffer.from(text, 'base64'))]))
}

export async function writeMandates (home: Home, mandates: ReadonlyMap<string, Uint8Array>): Promise<void> {
  const saved = Object.fromEntries([...mandates].map(([peer, bytes]) => [peer, Buffer.from(bytes).toString('base64')]))
  await replaceFile(home.mandates, JSON.stringify(saved, null, 2))
}

export async function readServers (home: Home): Promise<SavedServer[]> {
  return await readJson(home.servers, serversSchema) ?? []
}

export async function writeServers (home: Home, servers: readonly SavedServer[]): Promise<void> {
  await replaceFile(home.servers, JSON.stringify(servers, null, 2))
}

export async function readProof (home: Home): Promise<SavedProof> {
  return await readJson(home.certificate, proofSchema) ?? {}
}

export async function writeProof (home: Home, proof: SavedProof): Promise<void> {
  await replaceFile(home.certificate, JSON.stringify(proof, null, 2))
}

export async function readAdmission (home: Home): Promise<AdmissionState> {
  return await readJson(home.admission, admissionSchema) ?? emptyAdmission()
}

export async function writeAdmission (home: Home, state: AdmissionState): Promise<void> {
  await replaceFile(home.admission, JSON.stringify(state, null, 2))
}

async function readJson<Schema extends z.ZodType> (path: string, schema: Schema): Promise<z.infer<Schema> | undefined> {
  const bytes = await readIfPresent(path)
  if (bytes === undefined) return undefined
  try {
    return schema.parse(JSON.parse(new TextDecoder().decode(bytes)))
  } catch (error) {
    throw new UsageError(`${path} is damaged`, 'restore it from a copy, or delete it and admit its peers anew', error)
  }
}
