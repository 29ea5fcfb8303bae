import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import { openStore } from '../../../src/node/federation/introduction.ts'
import { beginMove, completeMove } from '../../../src/node/federation/move.ts'
import { weightsToFetch } from '../../../src/node/federation/span-weights.ts'
import { homeAt, type Home } from '../../../src/node/home/home.ts'
import { readConfig, updateConfig } from '../../../src/node/home/settings.ts'
import { verifyCharter, type Charter } from '../../../src/protocols/charter/index.ts'
import { writeTinyModel } from '../../helpers/tiny-model.ts'
import { founded, temporaryDirectory } from '../fixture.ts'

const [FROM, TO] = [{ first: 1, end: 3 }, { first: 2, end: 4 }]
const move = { from: FROM, to: TO, reason: 'moves from 1-3 to 2-4' }

/** Puts the weights of blocks into a home: as a whole, or as parts that wait. */
async function fill (home: Home, charter: Charter, model: string, span: typeof FROM, isWhole: boolean): Promise<void> {
  const directory = await openModelDirectory(model)
  const store = await openStore(home.model, weightsToFetch(charter, span, undefined))
  for (const { name, kind, sha256, bytes } of store.pending())
    await store.append(sha256, 0, kind === 'file' ? await readFile(join(model, name)) : await directory.readRaw(name, 0, bytes))
  if (isWhole) await store.finish()
}

/** A server's home with the blocks of before, and with the weights of the later ones in parts. */
async function moving (): Promise<{ readonly home: Home, readonly charter: Charter }> {
  const model = await temporaryDirectory()
  await writeTinyModel(model)
  const { charter } = await verifyCharter(await readFile(homeAt((await founded({ model, clip: 'none', noise: 0, wire: 'fp32' })).home).charter))
  const home = homeAt(await temporaryDirectory())
  await updateConfig(home, { role: 'server', blocks: '1-3', memory: 1 })
  await fill(home, charter, model, FROM, true)
  await fill(home, charter, model, TO, false)
  return { home, charter }
}

const blocksIn = async ({ model }: Home): Promise<Set<string | undefined>> =>
  new Set((await openModelDirectory(model)).tensorNames().map((name) => /layers\.(\d)\./.exec(name)?.[1]))

it('a move is complete once, whenever it is begun, and is remembered with its reason', async () => {
  const { home, charter } = await moving()
  expect(await completeMove(home, charter)).toBeUndefined()
  expect([await blocksIn(home), (await readConfig(home.config)).blocks]).toEqual([new Set(['1', '2']), '1-3'])
  await beginMove(home, move)
  const done = { from: '1-3', to: '2-4', reason: move.reason, at: expect.any(String) as string, isPending: false }
  expect(await completeMove(home, charter)).toEqual(done)
  expect([await blocksIn(home), (await readConfig(home.config)).blocks]).toEqual([new Set(['2', '3']), '2-4'])
  // As if it had been ended before it noted that all was done.
  await beginMove(home, move)
  expect(await completeMove(home, charter)).toEqual(done)
  expect(await completeMove(home, charter)).toEqual(done)
  expect([await blocksIn(home), (await readConfig(home.config)).memory]).toEqual([new Set(['2', '3']), 1])
})

it('a move whose weights somebody removed is given up, and the blocks of before stay', async () => {
  const { home, charter } = await moving()
  await beginMove(home, move)
  await rm(join(home.model, 'parts'), { recursive: true })
  expect(await completeMove(home, charter)).toBeUndefined()
  expect([await blocksIn(home), (await readConfig(home.config)).blocks]).toEqual([new Set(['1', '2']), '1-3'])
  expect(await completeMove(home, charter)).toBeUndefined()
})

it('a record of a move that is damaged is named, with what to do', async () => {
  const { home, charter } = await moving()
  for (const text of ['{', '{"to": 3}', JSON.stringify({ from: '1-3', to: 'all', reason: '', at: new Date().toISOString(), isPending: true })]) {
    await writeFile(home.move, text)
    await expect(completeMove(home, charter)).rejects.toThrow(`${home.move} is damaged`)
  }
})
