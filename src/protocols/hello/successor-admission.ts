import type { Admission, AdmissionDecision, Candidate, Gatekeeper } from './admission.ts'
import { checkFederation, checkVersions, roleOf } from './admission.ts'
import { checkCertificate, verifyCertificate } from './certificate.ts'
import { RefusedError, REFUSALS } from './errors.ts'

export interface SuccessorPolicy {
  /** The federation's id, in hex. */
  readonly federation: string
  /** The founder's peer id. */
  readonly founder: string
  /** This server's peer id. */
  readonly leader: string
  /** Protocol versions the federation uses, by name. */
  readonly protocols: Readonly<Record<string, string>>
}

/**
 * Decides who is let in on a server that leads in the founder's place: who was admitted here, and members of before, by their certificates.
 * From then on a member has its place here.
 */
export class SuccessorAdmission implements Gatekeeper {
  readonly #admission: Admission
  readonly #policy: SuccessorPolicy
  readonly #now: () => number

  constructor (admission: Admission, policy: SuccessorPolicy, now: () => number = Date.now) {
    this.#admission = admission
    this.#policy = policy
    this.#now = now
  }

  async admit (candidate: Candidate): Promise<AdmissionDecision> {
    try {
      return this.#admission.admit(candidate)
    } catch (error) {
      if (!(error instanceof RefusedError) || error.code !== REFUSALS.notAdmitted) throw error
      const { federation, founder, leader, protocols } = this.#policy
      const { peer, certificate: bytes } = candidate
      if (this.#admission.state.removed[peer] !== undefined) throw error
      checkFederation(candidate, federation)
      checkVersions(candidate, protocols)
      const role = roleOf(candidate)
      let weight: number | undefined
      if (peer !== founder || role !== 'server') {
        if (bytes === undefined) throw error
        const certificate = await verifyCertificate(bytes, founder, leader)
        const revoked = new Set(this.#admission.revoked())
        checkCertificate(certificate, { federation, peer, role, nowMs: this.#now(), revoked })
        weight = certificate.weight
      }
      this.#admission.adopt(peer, role, weight)
      return { role, changed: true }
    }
  }

  has (peer: string): boolean { return this.#admission.has(peer) }
  weightOf (peer: string): number { return this.#admission.weightOf(peer) }
  leave (peer: string): boolean { return this.#admission.leave(peer) }
  remove (peer: string): boolean { return this.#admission.remove(peer) }
}
