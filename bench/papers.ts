/**
 * What the papers measure over partitions, with SmolLM2-135M-Instruct: a training round, a generated token with the KV cache and without
 * it, and the memory of a client, beside the whole model on one machine. A client keeps as many blocks at the bottom as at the top.
 * Run: node bench/papers.ts [blocks,… 1,2,5,10] [turns, 3]; a model that MIDSPAN_CHAT_MODEL names in place of the default
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chatModel } from './support/chat-model.ts'
import { Federation } from './support/federation.ts'
import { residentMemory } from './support/memory.ts'
import { Worker } from './support/messages.ts'
import type { Answer, Question } from './support/monolith.ts'
import { median, printTable } from './support/print.ts'

const THREADS = 2
const TARGETS = ['q', 'v'] as const
/** A round of 4 x 128 tokens, of which every one counts. */
const BATCH = { sequences: 4, maxTokens: 128 } as const
/** Tokens before those that are generated: what is computed anew for each where there is no cache. */
const PROMPT_TOKENS = 64
const TOKENS = 16
const MIB = 2 ** 20

/** Of one way to compute; what was not measured is absent. */
interface Measured {
  readonly name: string
  readonly roundMs: number
  readonly cachedMs: number
  readonly uncachedMs?: number
  readonly wireMiB?: number
  readonly clientMiB: number
  readonly serverMiB?: number
}

function prompt (first: number, length: number): number[] {
  return [first, ...Array.from({ length: length - 1 }, (_, i) => 100 + i * 7 % 1000)]
}

/** The whole model in one process. */
async function whole (model: string, turns: number): Promise<Measured> {
  const args = [model, String(THREADS), TARGETS.join()]
  const { worker } = await Worker.start<Question, Answer>(join(import.meta.dirname, 'support/monolith.ts'), args)
  try {
    const batch = Array.from({ length: BATCH.sequences }, (_, i) => prompt(50 + i, BATCH.maxTokens))
    const { ms } = await worker.ask({ kind: 'train', batches: Array.from({ length: turns + 1 }, () => batch) })
    const { peak } = await residentMemory(worker.pid)
    const generated = await worker.ask({ kind: 'generate', ids: prompt(1, PROMPT_TOKENS), maxTokens: TOKENS, adapters: true })
    return { name: 'whole, one machine', roundMs: median(ms.slice(1)), cachedMs: median(generated.ms), clientMiB: peak / MIB }
  } finally {
    await worker.stop()
  }
}

/** A client that keeps so many blocks at either end, and a server with the others, in processes of their own. */
async function split (directory: string, model: string, blocks: number, turns: number): Promise<Measured> {
  const partition = { min: blocks, max: blocks }
  const federation = await Federation.start(directory, {
    model, strategy: 'client-batch', wire: 'fp16', loraTargets: TARGETS, inputBlocks: partition, outputBlocks: partition,
    clients: 1, clientsPerProcess: 1, serverThreads: THREADS, clientThreads: THREADS
  })
  try {
    const ends: number[] = []
    let bytes = 0
    await federation.train(turns + 1, BATCH, (_, { sentBytes, receivedBytes }) => {
      ends.push(performance.now())
      bytes = sentBytes + receivedBytes
    })
    const [client] = federation.processes
    const [clientMemory, serverMemory] = await Promise.all([client!, federation.server].map(async ({ pid }) => await residentMemory(pid)))
    const cached = await federation.generate(0, prompt(1, PROMPT_TOKENS), TOKENS)
    // Prompts with another first token each: nothing that was computed for one serves the next.
    const startedAtMs = performance.now()
    for (let i = 0; i < TOKENS; i++) await federation.generate(0, prompt(2 + i, PROMPT_TOKENS + i), 1)
    const uncachedMs = (performance.now() - startedAtMs) / TOKENS
    return {
      name: `${blocks}/${blocks}`,
      roundMs: median(ends.slice(1).map((end, i) => end - ends[i]!)),
      cachedMs: cached.decodeSeconds * 1000 / (cached.ids.length - 1),
      uncachedMs,
      wireMiB: bytes / MIB,
      clientMiB: clientMemory!.peak / MIB,
      serverMiB: serverMemory!.peak / MIB
    }
  } finally {
    await federation.stop()
  }
}

async function main (partitions: readonly number[], turns: number): Promise<void> {
  const model = chatModel()
  const root = await mkdtemp(join(tmpdir(), 'midspan-papers-'))
  const measured: Measured[] = []
  const note = (one: Measured): void => {
    measured.push(one)
    console.log(JSON.stringify(one))
  }
  try {
    note(await whole(model, turns))
    for (const blocks of partitions) note(await split(await mkdtemp(join(root, 'cell-')), model, blocks, turns))
  } finally {
    await rm(root, { recursive: true, force: true })
  }
  const [{ roundMs, clientMiB } = { roundMs: NaN, clientMiB: NaN }] = measured
  const text = (value: number | undefined, digits = 0): string => value === undefined ? '' : value.toFixed(digits)
  console.log()
  printTable(
    [
      'blocks of a client', 'round, ms', 'over whole', 'token, ms', 'without cache', 'ratio', 'wire, MiB', 'client, MiB', 'of whole', 'server, MiB'
    ],
    measured.map((one) => [
      one.name,
      text(one.roundMs),
      text(one.roundMs / roundMs, 2),
      text(one.cachedMs, 1),
      text(one.uncachedMs, 1),
      one.uncachedMs === undefined ? '' : text(one.uncachedMs / one.cachedMs, 1),
      text(one.wireMiB, 1),
      text(one.clientMiB),
      text(one.clientMiB / clientMiB, 2),
      text(one.serverMiB)
    ])
  )
}

await main((process.argv[2] ?? '1,2,5,10').split(',').map(Number), Number(process.argv[3] ?? 3))
