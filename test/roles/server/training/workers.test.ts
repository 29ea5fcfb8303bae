import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { PeerId } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { beforeAll, describe, expect, it } from 'vitest'
import { BadMessageError, ChannelResetError, RemoteError } from '../../../../src/protocols/wire/errors.ts'
import type { KnownServer, ServerDirectory } from '../../../../src/roles/context.ts'
import type { HolderPass } from '../../../../src/roles/server/training/holder.ts'
import { Workers, type RemoteHolder } from '../../../../src/roles/server/training/workers.ts'
import type { Span } from '../../../../src/span.ts'
import type { Tensor } from '../../../../src/tensor.ts'
import { FakeClock } from '../../training/fake-clock.ts'

const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }

/** A link that is never asked to compute. */
class IdleLink implements RemoteHolder {
  readonly isLocal = false
  readonly speed = undefined
  readonly peer: string
  readonly span: Span
  refreshed = 0
  closed: Error | undefined

  constructor (peer: string, span: Span) {
    this.peer = peer
    this.span = span
  }

  async refresh (): Promise<void> { this.refreshed++ }
  close (error: Error): void { this.closed ??= error }
  async forward (): Promise<HolderPass> { throw new Error('nothing is computed here') }
  async evaluate (): Promise<readonly Tensor[]> { throw new Error('nothing is computed here') }
}

describe('the workers that a coordinator knows', () => {
  let peers: PeerId[]
  beforeAll(async () => {
    peers = await Promise.all([1, 2].map(async (seed) =>
      peerIdFromPrivateKey(await generateKeyPairFromSeed('Ed25519', new Uint8Array(32).fill(seed)))))
  })

  const known = (peerId: PeerId, span: Span | undefined, connected = true): KnownServer =>
    ({ peerId, connected, isCoordinator: false, span, load: undefined, roundTripMs: undefined })

  function setUp (servers: KnownServer[]) {
    const links: IdleLink[] = []
    let listed = servers
    let changed = (): void => {}
    const directory: ServerDirectory = {
      servers: () => listed,
      onServersChanged: (listener) => {
        changed = listener
        return () => { changed = () => {} }
      }
    }
    const clock = new FakeClock()
    const workers = new Workers({
      directory,
      local: undefined,
      blocks: 5,
      link: ({ peerId }, span) => {
        const link = new IdleLink(peerId.toString(), span)
        links.push(link)
        return link
      },
      logger: quiet,
      signal: new AbortController().signal,
      clock
    })
    const list = (next: KnownServer[]): void => {
      listed = next
      changed()
    }
    const spans = (): Span[] => workers.available().map(({ span }) => span)
    return { workers, links, list, clock, spans }
  }

  it('are those that are connected and serve blocks of the model', () => {
    const [a, b] = peers as [PeerId, PeerId]
    const { spans, list } = setUp([known(a, { first: 1, end: 3 }), known(b, { first: 1, end: 3 }, false)])
    expect(spans()).toEqual([{ first: 1, end: 3 }])
    for (const [first, end] of [[3, 3], [-1, 2], [1, 6], [0.5, 2], [NaN, 2]] as const) {
      list([known(a, { first, end }), known(b, undefined)])
      expect(spans()).toEqual([])
    }
  })

  it('get the adapters as soon as they are there, and after each step', () => {
    const { links, workers } = setUp([known(peers[0]!, { first: 1, end: 3 })])
    expect(links[0]!.refreshed).toBe(1)
    workers.refresh()
    expect(links[0]!.refreshed).toBe(2)
  })

  it('are other ones where they serve other blocks, or went and came back', () => {
    const [a] = peers as [PeerId]
    const { links, list, spans } = setUp([known(a, { first: 1, end: 3 })])
    list([known(a, { first: 2, end: 4 })])
    expect(links[0]!.closed).toBeDefined()
    expect(spans()).toEqual([{ first: 2, end: 4 }])
    list([])
    list([known(a, { first: 2, end: 4 })])
    expect(links.map(({ closed }) => closed !== undefined)).toEqual([true, true, false])
  })

  it('are left out for longer each time they are lost, until they have done their part', () => {
    const { links, workers, clock, spans } = setUp([known(peers[0]!, { first: 1, end: 3 })])
    const lose = (): void => { workers.lost(links[0]!, new ChannelResetError()) }
    lose()
    expect(spans()).toEqual([])
    clock.advance(250)
    expect(spans()).toHaveLength(1)
    for (let i = 0; i < 5; i++) lose()
    clock.advance(3_000)
    expect(spans()).toEqual([])
    clock.advance(30_000)
    workers.worked(links[0]!)
    lose()
    clock.advance(250)
    expect(spans()).toHaveLength(1)
  })

  it('are left out for a minute where they computed wrong, also when they come back before', () => {
    const [a] = peers as [PeerId]
    const { links, workers, clock, spans, list } = setUp([known(a, { first: 1, end: 3 })])
    workers.lost(links[0]!, new BadMessageError('rows came as float32 [3, 3]: expected float32 [2, 3]'))
    expect(links[0]!.closed).toBeInstanceOf(BadMessageError)
    list([])
    list([known(a, { first: 1, end: 3 })])
    clock.advance(29_000)
    expect(spans()).toEqual([])
    clock.advance(32_000)
    expect(spans()).toHaveLength(1)
    workers.faulty(workers.available()[0]!, 'its gradients are not finite')
    clock.advance(59_000)
    expect(spans()).toEqual([])
    clock.advance(62_000)
    expect(spans()).toHaveLength(1)
  })

  it('are not at fault where they refuse what they were asked', () => {
    const { links, workers, clock, spans } = setUp([known(peers[0]!, { first: 1, end: 3 })])
    workers.lost(links[0]!, new RemoteError('E_BAD_MESSAGE', 'a pass was named that is not kept'))
    clock.advance(250)
    expect(spans()).toHaveLength(1)
  })

  it('tell whoever waits that something changed', async () => {
    const { links, workers, clock, list } = setUp([known(peers[0]!, { first: 1, end: 3 })])
    const signal = AbortSignal.timeout(5_000)
    const changes = [workers.changed(signal)]
    workers.lost(links[0]!, new ChannelResetError())
    changes.push(workers.changed(signal))
    clock.advance(250)
    changes.push(workers.changed(signal))
    list([])
    await Promise.all(changes)
  })

  it('are gone when the coordinator stops', () => {
    const { links, workers, list } = setUp([known(peers[0]!, { first: 1, end: 3 })])
    workers.stop()
    expect(links[0]!.closed).toBeDefined()
    list([known(peers[1]!, { first: 1, end: 3 })])
    expect(workers.available()).toEqual([])
  })
})
