import { rm } from 'node:fs/promises'
import { z } from 'zod'
import { UsageError } from '../../errors.ts'
import type { Charter } from '../../protocols/charter/index.ts'
import { fetchFromSeveral, type FetchSource } from '../../protocols/weights/index.ts'
import { parseSpan, spanText, type Span } from '../../span.ts'
import { readIfPresent, replaceFile, type Home } from '../home/home.ts'
import { readConfig, updateConfig } from '../home/settings.ts'
import { openStore } from './introduction.ts'
import { checkDirectory, weightsToFetch } from './span-weights.ts'

const moveSchema = z.strictObject({
  /** The blocks of before, as `spanText` writes them. */
  from: z.string(),
  to: z.string(),
  /** Why, for people. */
  reason: z.string(),
  at: z.iso.datetime(),
  /** Whether the blocks are yet to be taken over. */
  isPending: z.boolean()
})

/** The last move of a server, as its home keeps it. */
export type MoveRecord = z.infer<typeof moveSchema>

/**
 * Brings what a server of other blocks needs into its home, beside what it serves now, which stays as it is: weights that are fetched wait
 * as parts. Where the home names a model directory, its bytes are checked instead. Throws UsageError, ModelStoreError, and what
 * `fetchFromSeveral` throws.
 */
export async function fetchSpan (
  home: Home,
  charter: Charter,
  to: Span,
  sources: readonly [FetchSource, ...FetchSource[]],
  signal: AbortSignal
): Promise<void> {
  const { model } = await readConfig(home.config)
  if (model !== undefined) await checkDirectory(model, charter, to, () => {}, signal)
  const expected = weightsToFetch(charter, to, model)
  if (Object.keys(expected.tensors).length === 0) return
  const store = await openStore(home.model, expected, signal)
  if (!store.complete) await fetchFromSeveral(store, sources, {}, signal)
}

/** Notes that a server takes over other blocks, whose weights are here. From then on it does so when it is started again. */
export async function beginMove (
  home: Home,
  { from, to, reason }: { readonly from: Span, readonly to: Span, readonly reason: string }
): Promise<void> {
  await writeMove(home, { from: spanText(from), to: spanText(to), reason, at: new Date().toISOString(), isPending: true })
}

/**
 * Takes over the blocks of a move that has begun, and returns the last move of the home, if any. It may be ended at any instant, and goes
 * on when it is called again. Where weights are missing, which somebody removed, the server stays with its blocks. Call it while no daemon
 * serves from the home. Throws UsageError for a record that is damaged.
 */
export async function completeMove (home: Home, charter: Charter): Promise<MoveRecord | undefined> {
  const move = await readMove(home)
  if (move?.isPending !== true) return move
  const to = parseSpan(move.to)
  if (to === undefined) throw damaged(home)
  const { model } = await readConfig(home.config)
  const expected = weightsToFetch(charter, to, model)
  if (Object.keys(expected.tensors).length > 0) {
    const store = await openStore(home.model, expected)
    if (!store.complete) {
      await forgetMove(home)
      return undefined
    }
    await store.finish()
  }
  await updateConfig(home, { blocks: move.to })
  const done = { ...move, isPending: false }
  await writeMove(home, done)
  return done
}

/** Forgets the last move of a home. */
export async function forgetMove (home: Home): Promise<void> {
  await rm(home.move, { force: true })
}

async function readMove (home: Home): Promise<MoveRecord | undefined> {
  const bytes = await readIfPresent(home.move)
  if (bytes === undefined) return undefined
  try {
    return moveSchema.parse(JSON.parse(new TextDecoder().decode(bytes)))
  } catch (error) {
    throw damaged(home, error)
  }
}

async function writeMove (home: Home, move: MoveRecord): Promise<void> {
  await replaceFile(home.move, JSON.stringify(move, null, 2))
}

function damaged (home: Home, cause?: unknown): UsageError {
  return new UsageError(`${home.move} is damaged`, 'delete it, and name the blocks with: midspan join --blocks', cause)
}
