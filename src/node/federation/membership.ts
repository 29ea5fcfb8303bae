import type { Ed25519PrivateKey, PeerId } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { z } from 'zod'
import { UsageError } from '../../errors.ts'
import { verifyCharter, type SignedCharter } from '../../protocols/charter/index.ts'
import { peerIdSchema } from '../../protocols/charter/schema.ts'
import { emptyAdmission, type AdmissionState } from '../../protocols/hello/index.ts'
import { NoFederationError, readIfPresent, replaceFile, type Home } from '../home/home.ts'
import { loadIdentity } from '../home/identity.ts'

/** A home's membership: who it is, and of what. */
export interface Membership {
  readonly key: Ed25519PrivateKey
  readonly peerId: PeerId
  readonly signed: SignedCharter
}

/** A server that a client knows. */
export interface KnownAddress {
  readonly peerId: string
  readonly addresses: readonly string[]
}

const serversSchema = z.array(z.strictObject({ peerId: peerIdSchema, addresses: z.array(z.string()) }))

const roleSchema = z.enum(['client', 'server'])

const admissionSchema = z.strictObject({
  peers: z.record(
    peerIdSchema,
    z.strictObject({ role: roleSchema, how: z.enum(['invite', 'allow-list', 'open']), at: z.iso.datetime() })
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
  removed: z.record(peerIdSchema, z.number()).default({})
})

/** Reads and checks what a home belongs to. Throws NoFederationError, or the charter's errors. */
export async function readMembership (home: Home): Promise<Membership> {
  const bytes = await readIfPresent(home.charter)
  const key = await loadIdentity(home.identity)
  if (bytes === undefined || key === undefined) throw new NoFederationError(home.root)
  return { key, peerId: peerIdFromPrivateKey(key), signed: await verifyCharter(bytes) }
}

export async function readServers (home: Home): Promise<KnownAddress[]> {
  return await readJson(home.servers, serversSchema) ?? []
}

export async function writeServers (home: Home, servers: readonly KnownAddress[]): Promise<void> {
  await replaceFile(home.servers, JSON.stringify(servers, null, 2))
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
