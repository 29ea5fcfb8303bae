import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { beforeAll, describe, expect, it } from 'vitest'
import { PROTOCOL_VERSIONS } from '../../../src/protocols/charter/index.ts'
import { Admission, createCertificate, SuccessorAdmission } from '../../../src/protocols/hello/index.ts'

const federation = 'ab'.repeat(32)
const DAY_MS = 24 * 3_600_000

describe('a server that took over', () => {
  let founder: Ed25519PrivateKey
  let stranger: Ed25519PrivateKey
  let member: string
  let leader: string
  const idOf = (key: Ed25519PrivateKey): string => peerIdFromPrivateKey(key).toString()

  beforeAll(async () => {
    founder = await generateKeyPair('Ed25519')
    stranger = await generateKeyPair('Ed25519')
    member = idOf(await generateKeyPair('Ed25519'))
    leader = idOf(await generateKeyPair('Ed25519'))
  })

  function successor () {
    const admission = new Admission({
      mode: 'invite', federation, server: leader, allow: new Set(), protocols: PROTOCOL_VERSIONS, maxClients: 4
    })
    const policy = { federation, founder: idOf(founder), leader, protocols: PROTOCOL_VERSIONS }
    return { admission, gate: new SuccessorAdmission(admission, policy) }
  }

  const hello = (peer: string, certificate?: Uint8Array, role = 'client') =>
    ({ peer, role, federation, protocols: PROTOCOL_VERSIONS, invite: undefined, certificate })

  const certificateOf = async (peer: string, by: Ed25519PrivateKey = founder, nowMs = Date.now()): Promise<Uint8Array> =>
    (await createCertificate({ federation, peer, role: 'client' }, by, nowMs)).bytes

  it('lets members of before in by their certificates, and the founder as a server, and remembers them', async () => {
    const { admission, gate } = successor()
    expect(await gate.admit(hello(member, await certificateOf(member)))).toEqual({ role: 'client', changed: true })
    expect(await gate.admit(hello(idOf(founder), undefined, 'server'))).toEqual({ role: 'server', changed: true })
    expect([member, idOf(founder), leader].map((peer) => gate.has(peer))).toEqual([true, true, false])
    expect(await gate.admit(hello(member))).toEqual({ role: 'client', changed: false })
    expect(admission.state.peers[member]).toMatchObject({ how: 'certificate' })
  })

  it.each<[string, string, () => Promise<Uint8Array | undefined>]>([
    ['no certificate', 'E_NOT_ADMITTED', async () => undefined],
    ['another peer\'s certificate', 'E_CERTIFICATE_PEER', async () => await certificateOf(leader)],
    ['a certificate that expired', 'E_CERTIFICATE_EXPIRED', async () => await certificateOf(member, founder, Date.now() - 8 * DAY_MS)],
    ['a stranger\'s certificate', 'E_CERTIFICATE_SIGNATURE', async () => await certificateOf(member, stranger)]
  ])('refuses %s', async (_, code, certificate) => {
    const { gate } = successor()
    await expect(gate.admit(hello(member, await certificate()))).rejects.toMatchObject({ code })
    expect(gate.has(member)).toBe(false)
  })

  it('refuses who was removed, whatever it shows, and the founder as a client', async () => {
    const { admission, gate } = successor()
    admission.state.removed[member] = Date.now()
    await expect(gate.admit(hello(member, await certificateOf(member)))).rejects.toMatchObject({ code: 'E_NOT_ADMITTED' })
    await expect(gate.admit(hello(idOf(founder)))).rejects.toMatchObject({ code: 'E_NOT_ADMITTED' })
    await gate.admit(hello(leader, await certificateOf(leader)))
    expect(gate.remove(leader)).toBe(true)
    await expect(gate.admit(hello(leader, await certificateOf(leader)))).rejects.toMatchObject({ code: 'E_NOT_ADMITTED' })
  })
})
