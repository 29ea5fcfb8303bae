/**
 * Where a training step's time goes: by class of operators, with the share of the machine's peak (one large matrix product in the same
 * runtime) that the products reach, and the kernels that take longest. Run: node bench/profile.ts [hidden size, 512] [steps, 5]
 */
import '../src/node/process/v8-flags.ts'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openModelDirectory } from '../src/model/checkpoint/directory.ts'
import { modelOf } from '../src/model/families/index.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { LocalTrainer } from '../src/model/training/local-trainer.ts'
import { restartWithAllocatorSettings } from '../src/node/process/allocator.ts'
import { withModel } from './support/federation.ts'
import { MatrixProduct } from './support/matrix-product.ts'
import { median, printTable } from './support/print.ts'
import { randomBatches } from './support/random-batch.ts'
import type { ModelSize } from './support/random-model.ts'
import { isProduct, productFlops, readTraces, type Kernel, type Trace } from './support/trace.ts'

const THREADS = 2
const BATCH = { sequences: 4, tokens: 256 }
const PRODUCTS = 5
const LONGEST = 15
const ADAPTERS = { r: 8, alpha: 16, dropout: 0, rslora: false, seed: '00', targets: ['q_proj', 'v_proj'] }
const OPTIMIZER = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }

const MODELS: readonly ModelSize[] = [
  { hidden: 512, blocks: 6, intermediate: 1376, heads: 8, kvHeads: 8, vocabulary: 4096, positions: 512 },
  { hidden: 2048, blocks: 2, intermediate: 5632, heads: 32, kvHeads: 4, vocabulary: 4096, positions: 512 }
]

const MOVING = [
  'Transpose',
  'Gather',
  'Reshape',
  'Concat',
  'Split',
  'Slice',
  'Expand',
  'Cast',
  'Shape',
  'Unsqueeze',
  'Squeeze',
  'Identity',
  'ScatterND',
  'Pad',
  'Range',
  'Tile'
]
const NORMALISING = [
  'SimplifiedLayerNormalization',
  'SkipSimplifiedLayerNormalization',
  'LayerNormalization',
  'ReduceMean',
  'Reciprocal',
  'Sqrt'
]

/** The class of a kernel, by its program, its kind and the shapes it works on. */
function classOf ({ program, op, inputs, outputs }: Kernel): string {
  if (program.startsWith('head')) return isProduct(op) ? 'head: products' : 'head: norm and loss'
  if (program.startsWith('embedding')) return 'embedding'
  if (!program.startsWith('block')) return 'optimiser, accumulation'
  if (MOVING.includes(op)) return 'data movement'
  if (op === 'RotaryEmbedding') return 'rotary positions'
  if (isProduct(op)) return (outputs[0]?.length ?? 0) > 2 ? 'attention: products' : 'matrix products'
  if (inputs.some(({ length }) => length > 2)) return 'attention: softmax and scores'
  return NORMALISING.includes(op) || inputs.some((shape) => shape.length === 2 && shape[1] === 1) ? 'normalisation' : 'elementwise'
}

interface Sum {
  ms: number
  flops: number
  calls: number
}

function summed (kernels: readonly Kernel[], keyOf: (kernel: Kernel) => string): Array<[string, Sum]> {
  const sums = new Map<string, Sum>()
  for (const kernel of kernels) {
    const sum = sums.get(keyOf(kernel)) ?? { ms: 0, flops: 0, calls: 0 }
    sums.set(keyOf(kernel), { ms: sum.ms + kernel.ms, flops: sum.flops + productFlops(kernel), calls: sum.calls + 1 })
  }
  return [...sums].sort(([, a], [, b]) => b.ms - a.ms)
}

function print ({ kernels, runs }: Trace, steps: number, stepMs: number, peakFlops: number): void {
  const share = (ms: number): string => `${(100 * ms / steps / stepMs).toFixed(1)} %`
  const row = (
    name: string,
    { ms, flops, calls }: Sum
  ): string[] => [
    name,
    (ms / steps).toFixed(1),
    share(ms),
    (calls / steps).toFixed(0),
    flops === 0 ? '' : (flops / ms / 1e6).toFixed(0),
    flops === 0 ? '' : `${(100 * flops / ms * 1000 / peakFlops).toFixed(0)} %`
  ]
  const inKernels = kernels.reduce((sum, { ms }) => sum + ms, 0)
  const inRuns = runs.reduce((sum, { ms }) => sum + ms, 0)
  printTable(['of a step', 'ms', 'share', 'kernels', 'GFLOP/s', 'of peak'], [
    ...summed(kernels, classOf).map(([name, sum]) => row(name, sum)),
    row('between kernels', { ms: inRuns - inKernels, flops: 0, calls: 0 }),
    row('between runs', { ms: steps * stepMs - inRuns, flops: 0, calls: runs.length })
  ])
  console.log()
  const described = ({ program, op, inputs }: Kernel): string =>
    `${program}: ${op} ${inputs.filter(({ length }) => length > 1).map((shape) => `[${shape.join()}]`).join(' ')}`
  printTable(
    ['longest kernels', 'ms', 'share', 'kernels', 'GFLOP/s', 'of peak'],
    summed(kernels, described).slice(0, LONGEST).map(([name, sum]) => row(name, sum))
  )
}

async function profile (size: ModelSize, steps: number): Promise<void> {
  const traces = await mkdtemp(join(tmpdir(), 'midspan-traces-'))
  try {
    await withModel(size, async (_, path) => {
      const directory = await openModelDirectory(path)
      const device = await openDevice('cpu', { threads: THREADS, profile: traces })
      const product = await MatrixProduct.open(device)
      const trainer = await LocalTrainer.load(device, modelOf(directory.config), directory, { trainable: ADAPTERS, optimizer: OPTIMIZER })
      const times: number[] = []
      const products: number[] = []
      for (const ids of randomBatches(steps + 1, { ...BATCH, vocabulary: size.vocabulary }, 'profile')) {
        for (let i = 0; i < PRODUCTS; i++) products.push(await product.run())
        const start = performance.now()
        await trainer.step([{ ids, targets: ids.map((sequence) => sequence.map((id) => (id + 1) % size.vocabulary)) }], {
          learningRate: 1e-4,
          maxGradientNorm: 1
        })
        times.push(performance.now() - start)
      }
      await device.close()
      const stepMs = times.slice(1).reduce((sum, ms) => sum + ms, 0) / steps
      const peakFlops = 1000 * MatrixProduct.flops / median(products)
      console.log(
        `\nhidden ${size.hidden}, ${size.blocks} blocks: ${stepMs.toFixed(0)} ms a step, peak ${(peakFlops / 1e9).toFixed(0)} GFLOP/s\n`
      )
      // Each program runs as often in the first step as in each other.
      const trace = await readTraces(traces, (program, runs) => program === 'matrix-product' ? 0 : runs * steps / (steps + 1))
      print(trace, steps, stepMs, peakFlops)
    })
  } finally {
    await rm(traces, { recursive: true, force: true })
  }
}

restartWithAllocatorSettings()
const [hidden = '512', steps = '5'] = process.argv.slice(2)
for (const size of MODELS.filter((model) => model.hidden === Number(hidden))) await profile(size, Number(steps))
