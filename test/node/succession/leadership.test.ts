import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { expect, it } from 'vitest'
import { Leadership } from '../../../src/node/succession/leadership.ts'
import { createLead, createMandate, firstLead, type Lead } from '../../../src/protocols/hello/index.ts'
import { temporaryDirectory } from '../fixture.ts'

const federation = 'ab'.repeat(32)

async function leaders () {
  const keys = await Promise.all([1, 2, 3].map(async () => await generateKeyPair('Ed25519')))
  const [founder, ...workers] = keys.sort((a, b) => peerIdFromPrivateKey(a).toString() < peerIdFromPrivateKey(b).toString() ? -1 : 1)
  const idOf = (index: number): string => peerIdFromPrivateKey(workers[index]!).toString()
  const lead = async (index: number, term: number, changes: object = {}): Promise<Uint8Array> => {
    const mandate = await createMandate({ federation, peer: idOf(index), expiresAtMs: Date.now() + 60_000 }, founder!)
    return (await createLead({ federation, term, mandate: mandate.bytes, addresses: [], ...changes }, workers[index]!)).bytes!
  }
  const scope = { federation, founder: peerIdFromPrivateKey(founder!).toString() }
  const path = join(await temporaryDirectory(), 'lead.bin')
  const changes: Lead[] = []
  const warnings: string[] = []
  const logger = { debug: () => {}, info: () => {}, warn: (_: object, text?: string) => { warnings.push(text ?? '') }, error: () => {} }
  const leadership = new Leadership({
    path, scope, lead: firstLead(scope.founder), logger, onChanged: (changed) => { changes.push(changed) }
  })
  return { leadership, lead, idOf, path, changes, warnings }
}

it('a newer term is kept and followed; an older one, and the same again, change nothing', async () => {
  const { leadership, lead, idOf, path, changes } = await leaders()
  const second = await lead(0, 2)
  await leadership.take(second)
  await leadership.take(second)
  await leadership.take(await lead(1, 1))
  expect(leadership.lead).toMatchObject({ term: 2, peer: idOf(0) })
  expect(changes.map(({ term }) => term)).toEqual([2])
  expect(new Uint8Array(await readFile(path))).toEqual(new Uint8Array(second))
})

it('of two servers that took the same term, everybody follows the same, whichever was heard of first', async () => {
  for (const order of [[0, 1], [1, 0]]) {
    const { leadership, lead, idOf } = await leaders()
    for (const index of order) leadership.hear(await lead(index, 1))
    await leadership.take(new Uint8Array(0))
    expect(leadership.lead.peer).toBe(idOf(0))
  }
})

it('a leader that says where it is now changes no more than that', async () => {
  const { leadership, lead, changes } = await leaders()
  await leadership.take(await lead(0, 1))
  await leadership.take(await lead(0, 1, { addresses: ['/ip4/192.0.2.1/tcp/1'], issuedAtMs: Date.now() + 1000 }))
  expect(leadership.lead.addresses).toEqual(['/ip4/192.0.2.1/tcp/1'])
  expect(changes).toHaveLength(1)
})

it('what does not hold is not taken over, and is said in the log', async () => {
  const { leadership, lead, warnings } = await leaders()
  const forged = await lead(0, 5)
  forged[forged.length - 1]! ^= 1
  await leadership.take(forged)
  expect(leadership.lead.term).toBe(0)
  expect(warnings).toEqual(['what a peer says of who leads is not taken over'])
})
