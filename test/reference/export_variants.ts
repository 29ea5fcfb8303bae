/**
 * Writes what peft_check.py checks: a directory under DIR for every kind of adapter that a charter allows, over a small model of every
 * family,
 * each with base/, adapter/ and expected.json: node export_variants.ts DIR
 */
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isAdapter } from '../../src/model/layers/trainable.ts'
import { createFederation, type CreateOptions } from '../../src/node/federation/create.ts'
import { readMembership } from '../../src/node/federation/membership.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { shapesOf, trainableOf } from '../../src/roles/charter-settings.ts'
import { writeExport } from '../../src/roles/export.ts'
import type { Tensor } from '../../src/tensor.ts'
import { foundDefaults } from '../helpers/founding.ts'
import { formulaLora, formulaWeight, readModelGolden, type ModelGolden } from '../helpers/golden.ts'
import { shapesOf as shapesOfModel } from '../helpers/tiny-model.ts'
import { writeExactModel } from '../roles/exact-data.ts'
import { trainedLogits } from '../roles/exported.ts'

const SEED = 'variants'

type Variants = Readonly<Record<string, Partial<CreateOptions>>>

const everywhere: Variants = { linear: {}, rslora: { loraRslora: true }, block: { trainBlocks: [1] } }
const allBiases: Variants = { 'bias-all': { trainBias: 'all' }, 'bias-block': { trainBias: 'all', trainBlocks: [0], loraRslora: true } }
const biases: Variants = { ...allBiases, 'bias-lora': { trainBias: 'lora_only', loraTargets: ['q', 'down'] } }

/** By model golden. */
const models: Readonly<Record<string, Variants>> = {
  'llama/gqa': { ...everywhere, attention: { loraTargets: ['q', 'v'], loraR: 8, loraAlpha: 3 } },
  'llama/mlp-bias': { ...everywhere, ...biases },
  'mistral/plain': everywhere,
  'qwen2/plain': { ...everywhere, ...biases },
  'qwen3/bias-window-tied': { ...everywhere, ...biases },
  'glm/plain': { ...everywhere, ...biases },
  'glm4/plain': { ...everywhere, ...biases },
  'chatglm/130528': { ...everywhere, ...allBiases },
  'chatglm/150528': everywhere,
  'chatglm2/plain': { ...everywhere, ...allBiases },
  'chatglm2/linear-bias': { ...everywhere, ...allBiases }
}

/** Trained values by formula, so that each of them tells. */
function valueOf (name: string, shape: readonly number[]): Tensor {
  return isAdapter(name) ? formulaLora(SEED, name, shape) : formulaWeight(SEED, name, shape)
}

async function writeVariant (directory: string, golden: ModelGolden, options: Partial<CreateOptions>): Promise<void> {
  await rm(directory, { recursive: true, force: true })
  await mkdir(directory, { recursive: true })
  const { ids } = golden
  const base = await writeExactModel(golden, join(directory, 'base'))
  const home = homeAt(join(directory, 'home'))
  await createFederation(home.root, {
    ...foundDefaults,
    loraR: 3,
    loraAlpha: 4,
    loraTargets: ['all-linear'],
    inputBlocks: { min: 0, max: 0 },
    outputBlocks: { min: 0, max: 0 },
    model: base,
    ...options
  }, AbortSignal.timeout(60_000))
  const { signed: { charter } } = await readMembership(home)
  const values = new Map(
    shapesOf(charter, [{ first: 0, end: charter.model.blocks }]).map(({ name, shape }) => [name, valueOf(name, shape)])
  )
  for await (
    const _ of writeExport(
      { out: join(directory, 'adapter'), merged: false, charter, trained: { round: 1, values } },
      AbortSignal.timeout(60_000)
    )
  );
  const { shape, data } = await trainedLogits(base, trainableOf(charter), values, ids)
  await writeFile(
    join(directory, 'expected.json'),
    JSON.stringify({ ids, logits: { shape, float32: Buffer.from((data as Float32Array).buffer).toString('base64') } })
  )
}

const [root] = process.argv.slice(2)
if (root === undefined) throw new Error('name a directory for the adapters')
for (const [golden, variants] of Object.entries(models)) {
  for (const [variant, options] of Object.entries(variants))
    await writeVariant(join(root, `${golden.replace('/', '-')}-${variant}`), readModelGolden(golden), options)
}
// The numbers of some blocks begin with those of others.
const config = { ...readModelGolden('llama/plain').config, num_hidden_layers: 22 }
await writeVariant(join(root, 'llama-deep-block'), { ...readModelGolden('llama/plain'), config, shapes: shapesOfModel(config) }, {
  trainBlocks: [1, 2]
})
