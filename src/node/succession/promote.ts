import { join } from 'node:path'
import { MidspanError, UsageError } from '../../errors.ts'
import { readSnapshot, writeSnapshot } from '../../model/checkpoint/snapshot.ts'
import type { Charter } from '../../protocols/charter/index.ts'
import { createLead, verifyMandate, verifyRevocations, type AdmissionState } from '../../protocols/hello/index.ts'
import { STANDBY_FILE, TRAINING_FILE } from '../../roles/server/training/state-files.ts'
import { CoordinatorState } from '../../roles/training/coordinator-state.ts'
import { readAdmission, readMembership, readProof, writeAdmission, type Membership, type SavedProof } from '../federation/membership.ts'
import { homeAt, replaceFile, type Home } from '../home/home.ts'
import { withHome } from '../home/lock.ts'
import { readConfig } from '../home/settings.ts'

export interface PromoteOptions {
  /** A copy of the coordinator's home, in place of the copy of the state that came here. */
  readonly from?: string | undefined
}

/** A server that leads from now on. */
export interface Promoted {
  readonly peerId: string
  readonly term: number
  /** The round that training goes on with. */
  readonly round: number
}

/** Thrown where nobody let this server lead. */
export class NoMandateError extends MidspanError {
  constructor (reason: string) {
    super('E_NO_MANDATE', `${reason}; without a mandate that was given before, nobody can lead in the place of a founder that is gone for good`, {
      next: 'restore the founder\'s home and start it, or run there: midspan entrust PEERID'
    })
  }
}

/** Thrown where there is no state of training to go on with. */
export class NoStandbyError extends MidspanError {
  constructor () {
    super('E_NO_STANDBY', 'no copy of the state of training has come here yet', {
      next: 'give --from DIR, a copy of the coordinator\'s home, or wait until this server was connected to it for a round'
    })
  }
}

/**
 * Makes the server of a home the one that leads. What it writes last is that it leads: a call that was cut off changed nothing, and is made
 * again. Throws NoMandateError, NoStandbyError, UsageError and HomeLockedError.
 */
export async function promote (root: string, { from }: PromoteOptions = {}): Promise<Promoted> {
  const home = homeAt(root)
  return await withHome(home, async () => {
    const membership = await readMembership(home)
    const { key, peerId, signed: { id, charter }, lead } = membership
    const { role } = await readConfig(home.config)
    if (role !== 'server') throw new UsageError('a client cannot lead', 'promote a server: see midspan servers')
    if (lead.peer === peerId.toString()) throw new UsageError(`this server leads already, in term ${lead.term}`, 'start its daemon')
    checkStart(charter)
    const proof = await readProof(home)
    const mandate = await mandateOf(membership, proof)
    const { round } = await takeState(home, id, from)
    await writeAdmission(home, await members(home, membership, proof, from))
    const term = lead.term + 1
    const { bytes } = await createLead({ federation: id, term, mandate, addresses: [] }, key)
    await replaceFile(home.lead, bytes as Uint8Array)
    return { peerId: peerId.toString(), term, round }
  })
}

/** Throws UsageError where a coordinator needs more of the founder's home than the state of training. */
function checkStart ({ adapters, weights: { blocks, bias } }: Charter): void {
  if (adapters.initial === undefined && blocks.length === 0 && bias === 'none') return
  throw new UsageError(
    'training starts from an adapter, or trains the model\'s own weights, of which the founder\'s home alone has all',
    'restore the founder\'s home, and start it where this server is'
  )
}

async function mandateOf (
  { peerId, signed: { id, charter: { founder } } }: Membership,
  { mandate }: SavedProof
): Promise<Uint8Array | undefined> {
  if (peerId.toString() === founder) return undefined
  if (mandate === undefined) throw new NoMandateError('the founder did not let this server lead')
  const verified = await verifyMandate(new Uint8Array(Buffer.from(mandate, 'base64')), { founder, federation: id })
  if (verified.peer !== peerId.toString()) throw new NoMandateError('the mandate here is another server\'s')
  if (verified.expiresAtMs <= Date.now())
    throw new NoMandateError(`the mandate of this server expired at ${new Date(verified.expiresAtMs).toISOString()}`)
  return verified.bytes
}

/** Takes over the state of training. What was here before is kept as the snapshot before. */
async function takeState (home: Home, federation: string, from: string | undefined): Promise<{ readonly round: number }> {
  const source = from === undefined ? join(home.state, STANDBY_FILE) : join(homeAt(from).state, TRAINING_FILE)
  const snapshot = await readSnapshot(source)
  const target = join(home.state, TRAINING_FILE)
  if (snapshot === undefined) {
    if (from === undefined) throw new NoStandbyError()
    // A federation that has not trained yet has no state.
    return await CoordinatorState.open(target, federation)
  }
  const { round } = await CoordinatorState.open(source, federation)
  if (source !== target) await writeSnapshot(target, snapshot)
  return { round }
}

/** Who has a place: what the coordinator's home says, or who shows a certificate later and was not removed. */
async function members (
  home: Home,
  { signed: { id, charter: { founder } }, lead }: Membership,
  { revocations }: SavedProof,
  from: string | undefined
): Promise<AdmissionState> {
  const state = await readAdmission(from === undefined ? home : homeAt(from))
  if (from !== undefined || revocations === undefined) return state
  const { peers } = await verifyRevocations(new Uint8Array(Buffer.from(revocations, 'base64')), founder, id, lead.peer)
  for (const peer of peers) {
    delete state.peers[peer]
    state.removed[peer] ??= Date.now()
  }
  return state
}
