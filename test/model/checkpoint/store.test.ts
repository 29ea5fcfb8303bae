import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import { digest, fingerprint, type TensorPrint } from '../../../src/model/checkpoint/fingerprint.ts'
import { writeSafetensors } from '../../../src/model/checkpoint/safetensors.ts'
import { PartialModelStore, type ExpectedModel } from '../../../src/model/checkpoint/store.ts'
import { bytesOf, float32, type Tensor } from '../../../src/tensor.ts'

let dir: string
beforeEach(async () => { dir = await mkdtemp(join(tmpdir(), 'midspan-store-')) })
afterEach(async () => { await rm(dir, { recursive: true }) })

const mebi = 2 ** 20
const config = new TextEncoder().encode('{"model_type":"llama"}')
const weights: Record<string, Tensor> = {
  a: float32([4], [1, 2, 3, 4]),
  twin: float32([4], [1, 2, 3, 4]),
  b: float32([2, 2], [5, 6, 7, 8]),
  none: float32([0], [])
}

async function print (name: string): Promise<TensorPrint> {
  return { dtype: 'F32', shape: weights[name]!.shape, ...await digest(stream(bytesOf(weights[name]!))) }
}

async function * stream (bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

async function expectedModel (...names: string[]): Promise<ExpectedModel> {
  const tensors = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await print(name)] as const)))
  return { tensors, files: { 'config.json': await digest(stream(config)) } }
}

const bytesNamed = (name: string): Uint8Array => name === 'config.json' ? config : bytesOf(weights[name]!)

/** Sends every missing piece in chunks of 5 bytes, as a peer would; stops after `most` of them. */
async function feed (store: PartialModelStore, most = Infinity): Promise<void> {
  let sent = 0
  for (const { name, sha256, bytes, offset } of store.pending()) {
    for (let at = offset; at < bytes; at += 5) {
      if (sent++ >= most) return
      await store.append(sha256, at, bytesNamed(name).slice(at, at + 5))
    }
  }
}

describe('a partial model', () => {
  it('is put together from chunks, equal tensors fetched once', async () => {
    const store = await PartialModelStore.open(dir, await expectedModel('a', 'twin', 'b', 'none'), mebi)
    expect(store.pending().map(({ name, kind, bytes, offset }) => [name, kind, bytes, offset])).toEqual([['a', 'tensor', 16, 0], [
      'b',
      'tensor',
      16,
      0
    ], ['config.json', 'file', 22, 0]])
    await expect(store.finish()).rejects.toThrow('still lacks 3 pieces')
    await feed(store)
    expect(store.complete).toBe(true)
    await store.finish()
    const model = await openModelDirectory(dir)
    expect(model.tensorNames()).toEqual(['a', 'b', 'none', 'twin'])
    for (const name of model.tensorNames()) expect(await model.read(name)).toEqual(weights[name])
    expect((await readdir(dir)).sort()).toEqual(['config.json', 'model.safetensors'])
    const expected = await expectedModel('a', 'twin', 'b', 'none')
    expect(await fingerprint(model)).toEqual(expected)
  })

  it('goes on where it was after being killed at any chunk', async () => {
    const expected = await expectedModel('a', 'b')
    let rounds = 0
    for (;;) {
      const store = await PartialModelStore.open(dir, expected, mebi)
      if (store.complete) {
        await store.finish()
        break
      }
      await feed(store, 1)
      rounds++
    }
    expect(rounds).toBe(4 + 4 + 5)
    expect((await PartialModelStore.open(dir, expected, mebi)).complete).toBe(true)
  })

  it('starts a piece again when its bytes are not those promised', async () => {
    const store = await PartialModelStore.open(dir, await expectedModel('a'), mebi)
    const { sha256 } = store.pending()[0]!
    await expect(store.append(sha256, 0, new Uint8Array(16))).rejects.toMatchObject({ code: 'E_MODEL_STORE' })
    expect(store.pending()[0]!.offset).toBe(0)
    await feed(store)
    expect(store.complete).toBe(true)
  })

  it('forgets a part that was damaged while nobody ran', async () => {
    const expected = await expectedModel('a')
    const { sha256 } = (await PartialModelStore.open(dir, expected, mebi)).pending()[0]!
    await writeFile(join(dir, 'parts', `${sha256}.part`), new Uint8Array(16))
    expect((await PartialModelStore.open(dir, expected, mebi)).pending()[0]!.offset).toBe(0)
    await writeFile(join(dir, 'parts', `${sha256}.part`), new Uint8Array(17))
    expect((await PartialModelStore.open(dir, expected, mebi)).pending()[0]!.offset).toBe(0)
  })

  it('refuses bytes out of place, past the end, or unasked', async () => {
    const store = await PartialModelStore.open(dir, await expectedModel('a'), mebi)
    const { sha256 } = store.pending()[0]!
    await expect(store.append(sha256, 1, new Uint8Array(1))).rejects.toThrow('continues at byte 0')
    await expect(store.append(sha256, 0, new Uint8Array(17))).rejects.toThrow('has 16 bytes')
    await expect(store.append('0'.repeat(64), 0, new Uint8Array(1))).rejects.toThrow('no piece')
    const twice = [store.append(sha256, 0, bytesOf(weights.a!)), store.append(sha256, 0, bytesOf(weights.a!))]
    await expect(twice[1]).rejects.toThrow('being written already')
    await twice[0]
  })

  it('uses tensors that it has again when its part of the model changes', async () => {
    const first = await PartialModelStore.open(dir, await expectedModel('a', 'none'), mebi)
    await feed(first)
    await first.finish()
    const second = await PartialModelStore.open(dir, await expectedModel('a', 'b'), mebi)
    expect(second.pending().map(({ name }) => name)).toEqual(['b'])
    await feed(second)
    await second.finish()
    expect((await openModelDirectory(dir)).tensorNames()).toEqual(['a', 'b'])
  })

  it('does not trust an earlier weights file whose values differ', async () => {
    await writeSafetensors(join(dir, 'model.safetensors'), new Map([['a', float32([4], [9, 9, 9, 9])]]))
    expect((await PartialModelStore.open(dir, await expectedModel('a'), mebi)).pending()[0]!.name).toBe('a')
  })

  it('is refused before any disk is taken when the promised sizes do not fit', async () => {
    const good = await expectedModel('a')
    const a = good.tensors.a!
    const path = join(dir, 'new')
    await expect(PartialModelStore.open(path, good, 20)).rejects.toThrow('at most 20 are allowed')
    await expect(PartialModelStore.open(path, { ...good, tensors: { a: { ...a, bytes: 12 } } }, mebi)).rejects.toThrow('takes 16')
    await expect(PartialModelStore.open(path, { ...good, tensors: { a: { ...a, shape: [2 ** 52, 2 ** 52, 2 ** 52] } } }, mebi)).rejects
      .toMatchObject({ code: 'E_MODEL_STORE' })
    await expect(PartialModelStore.open(path, { ...good, files: { '../evil': { bytes: 1, sha256: a.sha256 } } }, mebi)).rejects.toThrow(
      'no part of a model'
    )
    await expect(PartialModelStore.open(path, { ...good, tensors: { a: { ...a, sha256: '../../x' } } }, mebi)).rejects.toThrow(
      'not a hex SHA-256'
    )
    expect(await readdir(dir)).toEqual([])
    const huge = { tensors: { a: { ...a, shape: [2 ** 48], bytes: 2 ** 50 } }, files: {} }
    await expect(PartialModelStore.open(path, huge, 2 ** 52)).rejects.toThrow('free space')
  })
})
