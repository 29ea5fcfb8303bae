import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { gradientName, Replicas, splitGradientName, type ReplicaRecord } from '../../../../src/roles/training/hierarchy/replicas.ts'

const EVERY = 4
const server = (peer: string, first: number, end: number) => ({ peer, span: { first, end } })
const client = (id: string, first = 1, end = 5) => ({ id, first, end })
const at = (round: number, record?: ReplicaRecord): Replicas => new Replicas({ round, replicas: record }, EVERY)

describe('replicas between two averages', () => {
  it('have clients spread evenly over them, whatever the order in which clients come', () => {
    fc.assert(fc.property(fc.shuffledSubarray(['a', 'b', 'c', 'd', 'e'], { minLength: 5 }), (order) => {
      const replicas = at(0)
      replicas.admit([server('w1', 1, 5), server('w2', 1, 5)])
      replicas.assign(order.map((id) => client(id)))
      expect(['a', 'b', 'c', 'd', 'e'].map((id) => replicas.assigned(id, 2))).toEqual(['w1', 'w2', 'w1', 'w2', 'w1'])
    }))
  })

  it('are chosen anew where the servers of a block change from one block to the next', () => {
    const replicas = at(0)
    replicas.admit([server('w1', 1, 5), server('w2', 1, 3), server('w3', 3, 5)])
    replicas.assign([client('a'), client('b')])
    expect([1, 2, 3, 4].map((block) => replicas.assigned('b', block))).toEqual(['w2', 'w2', 'w3', 'w3'])
    expect(replicas.spanFrom(2, 5)).toEqual({ first: 2, end: 3 })
    expect(replicas.spanFrom(0, 5)).toBeUndefined()
    expect(() => replicas.serverOf('a', 0)).toThrow(RangeError)
  })

  it('come in at an average, or at once where nobody else has their blocks', () => {
    const record = at(0)
    record.admit([server('w1', 1, 3)])
    const replicas = at(1, record.record(false))
    replicas.admit([server('w1', 1, 3), server('w2', 1, 3), server('w3', 3, 5)])
    expect(replicas.servers.map(({ peer }) => peer)).toEqual(['w1', 'w3'])
    const later = at(EVERY, replicas.record(true))
    later.admit([server('w2', 1, 3)])
    expect(later.servers.map(({ peer }) => peer)).toEqual(['w1', 'w2', 'w3'])
  })

  it('come in at once where they moved to blocks that nobody else has, and stay what they were where others have them', () => {
    const record = at(0)
    record.admit([server('w1', 1, 3), server('w2', 1, 3), server('w3', 3, 5)])
    const replicas = at(1, record.record(false))
    replicas.admit([server('w1', 1, 3), server('w2', 3, 5)])
    expect(replicas.servers.find(({ peer }) => peer === 'w2')).toEqual(server('w2', 1, 3))
    replicas.giveUp('w3')
    replicas.admit([server('w1', 1, 3), server('w2', 3, 5)])
    expect(replicas.servers).toEqual([server('w1', 1, 3), server('w2', 3, 5)])
  })

  it('keep their clients over a restart, and until an average', () => {
    const before = at(0)
    before.admit([server('w1', 1, 5), server('w2', 1, 5)])
    before.assign([client('b')])
    before.assign([client('a')])
    const after = at(1, JSON.parse(JSON.stringify(before.record(false))) as ReplicaRecord)
    after.admit([server('w1', 1, 5)])
    after.assign([client('a'), client('b')])
    expect([after.assigned('a', 1), after.assigned('b', 1)]).toEqual(['w2', 'w1'])
    expect(after.record(true).clients).toEqual({})
  })

  it('leave their clients to the others when they are given up', () => {
    const replicas = at(1, { servers: [server('w1', 1, 5), server('w2', 1, 5)], clients: {} })
    replicas.assign([client('a'), client('b')])
    replicas.giveUp('w1')
    expect(replicas.assigned('a', 1)).toBeUndefined()
    replicas.admit([server('w1', 1, 5)])
    expect(replicas.serverOf('a', 1)).toBe('w2')
    expect(replicas.assigned('b', 4)).toBe('w2')
  })

  it('have gradients whose names are taken apart again', () => {
    fc.assert(fc.property(fc.string(), fc.string().filter((peer) => !peer.includes('@')), (name, peer) => {
      expect(splitGradientName(gradientName(name, peer))).toEqual({ name, server: peer })
    }))
  })
})
