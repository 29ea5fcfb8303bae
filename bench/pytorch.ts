/**
 * The model core beside PyTorch (eager) with transformers and PEFT: the same weights, tokens and threads, turn by turn in one run. A
 * reference environment's Python is named by MIDSPAN_PYTHON; without one PyTorch's recorded times stand in, as multiples of a large
 * matrix product's. Run: node bench/pytorch.ts [turns, 5; 0 for memory alone] [only this hidden size] [--record, to keep PyTorch's times]
 */
import { readFile, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { withModel } from './support/federation.ts'
import { MatrixProduct } from './support/matrix-product.ts'
import { residentMemory, resetPeak } from './support/memory.ts'
import { Worker } from './support/messages.ts'
import type { Answer, Question } from './support/monolith.ts'
import { median, printTable } from './support/print.ts'
import { randomBatches } from './support/random-batch.ts'
import type { ModelSize } from './support/random-model.ts'
import { Reference } from './support/reference.ts'

const BAR_TIME = 0.6
const BAR_MEMORY = 1
const THREADS = 2
const TARGETS = ['q', 'v']
const BATCH = { sequences: 4, tokens: 256 }
const TOKENS = 33
const PROMPT_TOKENS = 64
const PRODUCTS = 5
const RECORDED = join(import.meta.dirname, 'pytorch.json')
/** Of PyTorch's loss for the same weights and tokens; more is not the same work. */
const LOSS_TOLERANCE = 1e-4

const MODELS: readonly ModelSize[] = [
  { hidden: 512, blocks: 6, intermediate: 1376, heads: 8, kvHeads: 8, vocabulary: 4096, positions: 512 },
  { hidden: 2048, blocks: 2, intermediate: 5632, heads: 32, kvHeads: 4, vocabulary: 4096, positions: 512 }
]

const WORK = ['training step', 'forward', 'decode step'] as const
type Work = typeof WORK[number]

/** Either side of the comparison. */
interface Side {
  readonly pid: number
  ask: (question: Question) => Promise<Answer>
  stop: () => Promise<void>
}

/** PyTorch's times as multiples of a matrix product's in Midspan's runtime, and its memory, on a machine of the past. */
interface Recorded {
  readonly machine: string
  readonly versions: Readonly<Record<string, string>>
  readonly cases: Readonly<Record<string, { readonly products: number } | { readonly peakBytes: number }>>
}

interface Times {
  readonly ours: number[]
  readonly theirs: number[]
}

async function openMidspan (model: string): Promise<Side> {
  const { worker } = await Worker.start<Question, Answer>(join(import.meta.dirname, 'support/monolith.ts'), [
    model,
    String(THREADS),
    TARGETS.join()
  ])
  return worker
}

function questions ({ vocabulary }: ModelSize, turn: number): Record<Work, Question> {
  const [batch, ...more] = randomBatches(3, { ...BATCH, vocabulary }, String(turn)) as [number[][], ...number[][][]]
  return {
    'training step': { kind: 'train', batches: [batch, ...more] },
    forward: { kind: 'forward', batch, times: 3 },
    'decode step': { kind: 'generate', ids: batch.flat().slice(0, PROMPT_TOKENS), maxTokens: TOKENS, adapters: false }
  }
}

/** Times of each kind of work, and of a matrix product, in turns. */
async function compare (size: ModelSize, ours: Side, theirs: Side | undefined, turns: number): Promise<Record<Work | 'product', Times>> {
  const times = Object.fromEntries([...WORK, 'product'].map((work) => [work, { ours: [], theirs: [] }])) as unknown as Record<
    Work | 'product',
    Times
  >
  for (let turn = 0; turn <= turns; turn++) {
    const asked = { ...questions(size, turn), product: { kind: 'product', times: PRODUCTS } as const }
    for (const work of [...WORK, 'product'] as const) {
      const mine = await ours.ask(asked[work])
      const other = await theirs?.ask(asked[work])
      if (turn === 0 && work === 'training step' && other !== undefined) checkLoss(mine.loss, other.loss)
      if (turn === 0) continue
      times[work].ours.push(median(mine.ms))
      if (other !== undefined) times[work].theirs.push(median(other.ms))
    }
  }
  return times
}

function checkLoss (ours: number, theirs: number): void {
  if (!(Math.abs(ours - theirs) <= LOSS_TOLERANCE * theirs))
    throw new Error(`the first step's loss is ${ours}, PyTorch's ${theirs}: not the same work`)
}

/**
 * Multiplications and additions of the products with the model's weights, which no implementation can do without: one product a weight and
 * token forward, and one back, but for what gives a gradient of the embedding's output. Of a decode step nothing is said: memory bounds it.
 */
function leastFlops ({ hidden, blocks, intermediate, heads, kvHeads, vocabulary }: ModelSize): Partial<Record<Work, number>> {
  const queryKeyValue = hidden * hidden * (1 + 2 * kvHeads / heads)
  const weights = blocks * (queryKeyValue + hidden * hidden + 3 * hidden * intermediate) + hidden * vocabulary
  const forward = 2 * BATCH.sequences * BATCH.tokens * weights
  return { forward, 'training step': 2 * forward - 2 * BATCH.sequences * BATCH.tokens * queryKeyValue }
}

/** Bytes that a process which does nothing but train has at most during a step, after its first one. */
async function stepMemory (size: ModelSize, side: Side): Promise<number> {
  const { 'training step': train } = questions(size, 0)
  await side.ask(train)
  await resetPeak(side.pid)
  await side.ask(train)
  const { peak } = await residentMemory(side.pid)
  await side.stop()
  return peak
}

async function main (turns: number, only: string | undefined, record: boolean): Promise<void> {
  const python = process.env.MIDSPAN_PYTHON
  const recorded = JSON.parse(
    await readFile(RECORDED, 'utf8').catch(() => '{"machine":"no machine yet (--record)","cases":{}}')
  ) as Recorded
  console.log(
    `Midspan over PyTorch ${
      python === undefined ? `as recorded on ${recorded.machine}` : 'eager'
    }: ${THREADS} threads, ${BATCH.sequences} x ${BATCH.tokens} tokens, LoRA r 8 on ${TARGETS.join()}; a token after ${PROMPT_TOKENS} to ${
      PROMPT_TOKENS + TOKENS
    }`
  )
  const rows: string[][] = []
  const add = (row: string[]): void => {
    rows.push(row)
    process.stderr.write(`${row.join('  ')}\n`)
  }
  const cases: Record<string, Recorded['cases'][string]> = {}
  let versions: Readonly<Record<string, string>> = {}
  for (const size of MODELS.filter(({ hidden }) => only === undefined || hidden === Number(only))) {
    const model = `hidden ${size.hidden}, ${size.blocks} blocks`
    await withModel(size, async (_, path) => {
      const openTheirs = async (): Promise<Reference | undefined> =>
        python === undefined ? undefined : await Reference.start(python, path, THREADS, TARGETS)
      if (turns > 0) {
        const ours = await openMidspan(path)
        const theirs = await openTheirs()
        const times = await compare(size, ours, theirs, turns)
        await ours.stop()
        await theirs?.stop()

        const product = median(times.product.ours)
        const flops = leastFlops(size)
        for (const work of WORK) {
          const name = `${model}: ${work}`
          const known = recorded.cases[name]
          const reference = theirs === undefined && known !== undefined && 'products' in known
            ? times[work].ours.map(() => known.products * product)
            : times[work].theirs
          if (theirs !== undefined) cases[name] = { products: median(reference) / product }
          const ratios = times[work].ours.map((ms, turn) => ms / (reference[turn] ?? NaN))
          const least = flops[work] === undefined ? '' : (flops[work] / MatrixProduct.flops * product / median(reference)).toFixed(2)
          add([
            name,
            `${median(times[work].ours).toFixed(1)} ms`,
            `${median(reference).toFixed(1)} ms`,
            median(ratios).toFixed(2),
            `${Math.min(...ratios).toFixed(2)}-${Math.max(...ratios).toFixed(2)}`,
            least,
            BAR_TIME.toFixed(2)
          ])
        }
        add([
          `${model}: a product of ${MatrixProduct.size} x ${MatrixProduct.size}`,
          `${product.toFixed(1)} ms`,
          `${median(times.product.theirs).toFixed(1)} ms`,
          (product / median(times.product.theirs)).toFixed(2),
          '',
          '',
          ''
        ])
      }

      const name = `${model}: peak memory of a step`
      const mine = await stepMemory(size, await openMidspan(path))
      const fresh = await openTheirs()
      versions = fresh?.versions ?? versions
      const known = recorded.cases[name]
      const other = fresh === undefined
        ? (known !== undefined && 'peakBytes' in known ? known.peakBytes : NaN)
        : await stepMemory(size, fresh)
      if (fresh !== undefined) cases[name] = { peakBytes: other }
      add([
        name,
        `${(mine / 2 ** 20).toFixed(0)} MiB`,
        `${(other / 2 ** 20).toFixed(0)} MiB`,
        (mine / other).toFixed(2),
        '',
        '',
        BAR_MEMORY.toFixed(2)
      ])
    })
  }
  console.log()
  printTable(['', 'Midspan', 'PyTorch', 'ratio', 'of turns', 'products alone', 'bar, at most'], rows)
  if (record)
    await writeFile(
      RECORDED,
      `${
        JSON.stringify(
          {
            machine: `${cpus()[0]?.model.trim() ?? ''}, ${THREADS} threads`,
            versions,
            cases: { ...recorded.cases, ...cases }
          } satisfies Recorded,
          null,
          2
        )
      }\n`
    )
}

const { values: { record }, positionals: [turns = '5', only] } = parseArgs({
  options: { record: { type: 'boolean', default: false } },
  allowPositionals: true
})
await main(Number(turns), only, record)
