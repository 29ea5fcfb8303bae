import { checkFederation, checkVersions, roleOf, type AdmissionDecision, type Candidate, type Gatekeeper } from './admission.ts'
import { checkCertificate, verifyCertificate, type Certificate } from './certificate.ts'
import { RefusedError, REFUSALS } from './errors.ts'

export interface CertificatePolicy {
  /** The federation's id, in hex. */
  readonly federation: string
  /** The peer id of the founder, who signs certificates and needs none. */
  readonly founder: string
  /** The peer id of the server that leads, where it is not the founder: its certificates hold too, and it needs none. */
  readonly leader?: string
  /** Protocol versions the federation uses, by name. */
  readonly protocols: Readonly<Record<string, string>>
}

/** Members that are remembered as such; the one that was admitted first is forgotten first. */
const MAX_REMEMBERED = 4096

/** Decides who is let in by the founder's certificates alone, on a server that invites nobody. Keeps nothing. */
export class CertificateAdmission implements Gatekeeper {
  readonly #policy: CertificatePolicy
  readonly #now: () => number
  /** What each admitted peer's certificate says. */
  readonly #admitted = new Map<string, Pick<Certificate, 'expiresAtMs' | 'weight'>>()
  #revoked: ReadonlySet<string> = new Set()

  constructor (policy: CertificatePolicy, now: () => number = Date.now) {
    this.#policy = policy
    this.#now = now
  }

  async admit (candidate: Candidate): Promise<AdmissionDecision> {
    const { federation, founder, leader = founder, protocols } = this.#policy
    const { peer, certificate: bytes } = candidate
    checkFederation(candidate, federation)
    checkVersions(candidate, protocols)
    const role = roleOf(candidate)
    if (peer === founder || peer === leader) return { role, changed: false }
    if (bytes === undefined)
      throw new RefusedError(REFUSALS.certificateMissing, 'certificate', `${peer} shows no certificate, by which alone this server admits`)
    const certificate = await verifyCertificate(bytes, founder, leader)
    checkCertificate(certificate, { federation, peer, role, nowMs: this.#now(), revoked: this.#revoked })
    this.#admitted.delete(peer)
    this.#admitted.set(peer, certificate)
    if (this.#admitted.size > MAX_REMEMBERED) this.#admitted.delete(this.#admitted.keys().next().value as string)
    return { role, changed: false }
  }

  has (peer: string): boolean {
    const { founder, leader } = this.#policy
    if (peer === founder || peer === leader) return true
    return (this.#admitted.get(peer)?.expiresAtMs ?? 0) > this.#now() && !this.#revoked.has(peer)
  }

  weightOf (peer: string): number {
    return this.#admitted.get(peer)?.weight ?? 1
  }

  leave (peer: string): boolean {
    return this.#admitted.delete(peer)
  }

  remove (peer: string): boolean {
    return this.leave(peer)
  }

  /** Takes the founder's newest list of peers that are no members any more. */
  revoke (peers: ReadonlySet<string>): void {
    this.#revoked = peers
  }
}
