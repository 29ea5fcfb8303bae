import { createHash } from 'node:crypto'
import type { Stream } from '@libp2p/interface'
import { streamPair } from '@libp2p/utils'
import { describe, expect, it } from 'vitest'
import { UsageError } from '../../../src/errors.ts'
import { fetchFromSeveral, fetchPieces, type FetchSource, type MissingPiece, type PieceStore, type WeightSource, WeightsService } from '../../../src/protocols/weights/index.ts'

const MiB = 2 ** 20
const tensor = Uint8Array.from({ length: 2 * MiB + 17 }, (_, index) => index * 31 + (index >> 8))
const contents: Record<string, Uint8Array> = { a: tensor, empty: new Uint8Array(0), secret: new Uint8Array(8) }
const soon = (): AbortSignal => AbortSignal.timeout(10_000)

const source: WeightSource = {
  sizeOf: (_, name) => contents[name]?.byteLength ?? 0,
  read: async (_, name, offset, length) => (contents[name] ?? new Uint8Array(0)).slice(offset, offset + length)
}

/** Pieces in memory. */
class MemoryStore implements PieceStore {
  readonly #pieces: Array<{ name: string, bytes: Uint8Array[], offset: number, size: number, done: boolean }>
  readonly appends: number[] = []

  constructor (...names: string[]) {
    this.#pieces = names.map((name) => ({ name, bytes: [], offset: 0, size: contents[name]?.byteLength ?? 0, done: false }))
  }

  pending (): MissingPiece[] {
    return this.#pieces.filter(({ done }) => !done).map(({ name, offset, size }) => ({
      kind: 'tensor',
      name,
      sha256: name,
      bytes: size,
      offset
    }))
  }

  async append (sha256: string, offset: number, bytes: Uint8Array): Promise<number> {
    const piece = this.#pieces.find(({ name }) => name === sha256)
    if (piece?.offset !== offset) throw new Error(`byte ${offset} is not what comes next`)
    this.appends.push(offset)
    piece.bytes.push(Uint8Array.from(bytes))
    piece.offset += bytes.byteLength
    piece.done = piece.offset === piece.size
    return piece.offset
  }

  hash (name: string): string {
    return createHash('sha256').update(Buffer.concat(this.#pieces.find((piece) => piece.name === name)?.bytes ?? [])).digest('hex')
  }
}

function opener (service: WeightsService, spoil: (client: Stream, attempt: number) => void = () => {}, peer = 'peer') {
  let attempts = 0
  return async (): Promise<Stream> => {
    const [client, server] = await streamPair()
    service.serve(server, peer).catch(() => {})
    spoil(client, attempts++)
    return client
  }
}

const service = (): WeightsService => new WeightsService(source, () => ({ files: new Set(), tensors: new Set(['a', 'empty']) }))

describe('weights', () => {
  it('come whole over one stream, in parts, an empty tensor too', async () => {
    const store = new MemoryStore('empty', 'a')
    let bytes = 0
    await fetchPieces(store, { open: opener(service()), onProgress: (more) => { bytes += more } }, soon())
    expect(store.hash('a')).toBe(createHash('sha256').update(tensor).digest('hex'))
    expect(bytes).toBe(tensor.byteLength)
  })

  it('go on where they stopped after the connection was cut', async () => {
    const store = new MemoryStore('a')
    const open = opener(service(), (client, attempt) => {
      if (attempt > 0) return
      const append = store.append.bind(store)
      store.append = async (...parameters) => {
        const offset = await append(...parameters)
        store.append = append
        client.abort(new Error('cut'))
        return offset
      }
    })
    await fetchPieces(store, { open, retryMs: 1 }, soon())
    expect(store.hash('a')).toBe(createHash('sha256').update(tensor).digest('hex'))
    expect(store.appends).toEqual([0, MiB, 2 * MiB])
  })

  it('are given up when nothing comes any more', async () => {
    let attempts = 0
    const open = async (): Promise<Stream> => {
      attempts++
      const [client, server] = await streamPair()
      server.abort(new Error('gone'))
      return client
    }
    await expect(fetchPieces(new MemoryStore('a'), { open, retryMs: 1 }, soon())).rejects.toMatchObject({
      code: expect.stringMatching(/^E_/) as string
    })
    expect(attempts).toBe(6)
  })

  it('that may not leave the server are refused at once', async () => {
    await expect(fetchPieces(new MemoryStore('secret'), { open: opener(service()) }, soon())).rejects.toMatchObject({
      code: 'E_NOT_SERVED'
    })
  })

  it('of another size than the charter says are refused', async () => {
    const store = new MemoryStore('a')
    const pending = store.pending.bind(store)
    store.pending = () => pending().map((piece) => ({ ...piece, bytes: 5 }))
    await expect(fetchPieces(store, { open: opener(service()) }, soon())).rejects.toMatchObject({ code: 'E_BAD_MESSAGE' })
  })

  it('are sent to one peer over a few streams alone, so that others have theirs', async () => {
    const shared = service()
    for (let i = 0; i < 2; i++) {
      const [, server] = await streamPair()
      shared.serve(server, 'greedy').catch(() => {})
    }
    await expect(fetchPieces(new MemoryStore('a'), { open: opener(shared, undefined, 'greedy'), retryMs: 1 }, soon())).rejects
      .toMatchObject({ code: 'E_BUSY' })
    await fetchPieces(new MemoryStore('a'), { open: opener(shared, undefined, 'other') }, soon())
  })

  it('that the server cannot read are said to be so, without its paths', async () => {
    const broken = new WeightsService({
      ...source,
      read: async () => {
        throw new UsageError('/home/owner/model.safetensors became shorter')
      }
    }, () => ({ files: new Set(), tensors: new Set(['a']) }))
    await expect(fetchPieces(new MemoryStore('a'), { open: opener(broken) }, soon())).rejects.toMatchObject({
      code: 'E_UNREADABLE',
      message: 'the server cannot read a'
    })
  })

  it('are sent to a bounded number of peers at one time', async () => {
    const busy = service()
    for (let i = 0; i < 16; i++) {
      const [, server] = await streamPair()
      busy.serve(server, `peer ${i}`).catch(() => {})
    }
    await expect(fetchPieces(new MemoryStore('a'), { open: opener(busy), retryMs: 1 }, soon())).rejects.toMatchObject({ code: 'E_BUSY' })
  })
})

describe('weights from several servers', () => {
  const names = Array.from({ length: 12 }, (_, index) => `t${index}`)
  const bytesOf = (name: string): Uint8Array => tensor.subarray(0, 1000 + Number(name.slice(1)))
  for (const name of names) contents[name] = bytesOf(name)

  /** A server with some tensors, which counts what it sends and may fail after so many of them. */
  function sourceOf (name: string, held: readonly string[], failsAfter = Infinity): FetchSource & { readonly sent: string[] } {
    const sent: string[] = []
    const counting: WeightSource = {
      ...source,
      read: async (kind, tensor, offset, length) => {
        if (sent.length >= failsAfter) throw new Error('the disk broke')
        sent.push(tensor)
        await new Promise((resolve) => setTimeout(resolve, 2))
        return await source.read(kind, tensor, offset, length)
      }
    }
    const service = new WeightsService(counting, () => ({ files: new Set(), tensors: new Set(held) }))
    return { name, sent, has: (piece) => held.includes(piece.name), open: opener(service, undefined, name) }
  }

  const hashesOf = (store: MemoryStore): string[] => names.map((name) => store.hash(name))
  const expected = names.map((name) => createHash('sha256').update(bytesOf(name)).digest('hex'))

  it('come each from one of them, from all of them at once', async () => {
    const [first, second, third] = [sourceOf('a', names), sourceOf('b', names.slice(0, 6)), sourceOf('c', names.slice(6))] as const
    const store = new MemoryStore(...names)
    await fetchFromSeveral(store, [first, second, third], {}, soon())
    expect(hashesOf(store)).toEqual(expected)
    expect([...first.sent, ...second.sent, ...third.sent].toSorted()).toEqual(names.toSorted())
    for (const { sent } of [first, second, third]) expect(sent.length).toBeGreaterThan(1)
  })

  it('come from the others when one of them fails', async () => {
    const [first, second] = [sourceOf('a', names), sourceOf('b', names, 2)] as const
    const store = new MemoryStore(...names)
    const lost: string[] = []
    await fetchFromSeveral(store, [first, second], { onLost: ({ name }) => { lost.push(name) } }, soon())
    expect(hashesOf(store)).toEqual(expected)
    expect([lost, second.sent.length]).toEqual([['b'], 2])
  })

  it('come from the others when one of them cannot be reached', async () => {
    const unreachable: FetchSource = { name: 'b', has: () => true, open: async () => { throw new Error('nobody listens') } }
    const store = new MemoryStore(...names)
    await fetchFromSeveral(store, [sourceOf('a', names), unreachable], {}, soon())
    expect(hashesOf(store)).toEqual(expected)
  })

  it('fail as the first of them does', async () => {
    const store = new MemoryStore(...names)
    await expect(fetchFromSeveral(store, [sourceOf('a', [...names], 1), sourceOf('b', names.slice(0, 2))], { retryMs: 1 }, soon())).rejects
      .toMatchObject({ code: 'E_UNREADABLE' })
  })
})
