import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { peftBiasName, peftTensorName, writePeftAdapter, type PeftAdapter } from '../../src/model/checkpoint/peft.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { isAdapter, type AdapterTraining } from '../../src/model/layers/trainable.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { Batches } from '../../src/model/text/batches.ts'
import { loadDataset } from '../../src/model/text/dataset.ts'
import { loadTokenizer } from '../../src/model/text/load.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import type { Tensor } from '../../src/tensor.ts'
import { formulaLora, relativeError } from '../helpers/golden.ts'
import { memorySource } from '../helpers/source.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { mixedPartitions, startFederation, type TestFederation } from './helpers.ts'

const ROUNDS = 4
const TOLERANCE = 1e-4
const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weightDecay: 0 }
const charter: Partial<CreateOptions> = {
  learningRate: 1e-2,
  ...optimizer,
  minClients: mixedPartitions.length,
  loraR: 2,
  loraAlpha: 4,
  loraTargets: ['q', 'down'],
  seed: '5eed'
}
const adapters: AdapterTraining = { r: 2, alpha: 4, dropout: 0, rslora: false, targets: ['q_proj', 'down_proj'], seed: '5eed' }
const work = { packing: 'padded', sequences: 3, maxTokens: 32 } as const

describe('what a federation trains', { timeout: 120_000 }, () => {
  let root: string
  let path: string
  let device: Device

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-trained-'))
    path = join(root, 'model')
    await writeTinyModel(path)
    for (const client of mixedPartitions.keys()) await writeTinyData(data(client), client)
    device = await openDevice('cpu', { threads: 1 })
  })
  afterAll(async () => {
    await device.close()
    await rm(root, { recursive: true, force: true })
  })

  const data = (client: number): string => join(root, `${client}.jsonl`)

  /** The rounds of three clients, in which all of them are. */
  async function trained<T> (changes: Partial<CreateOptions>, use: (federation: TestFederation) => Promise<T>, model = path): Promise<T> {
    const federation = await startFederation({
      model,
      charter: { ...charter, ...changes },
      clients: mixedPartitions,
      identities: 'trained'
    })
    try {
      await Promise.all(federation.clients.map(async (client, index) => await client.train({ data: data(index), rounds: ROUNDS, ...work })))
      return await use(federation)
    } finally {
      await federation.stop()
    }
  }

  /** The same on one machine. */
  async function centralised (
    trainable: AdapterTraining,
    { model = path, imported = new Map<string, Tensor>() } = {}
  ): Promise<Map<string, Tensor>> {
    const directory = await openModelDirectory(model)
    const base = new Map(await Promise.all(directory.tensorNames().map(async (name) => [name, await directory.read(name)] as const)))
    const trainer = await LocalTrainer.load(device, modelOf(directory.config), memorySource(new Map([...base, ...imported])), {
      trainable,
      optimizer
    })
    const tokenizer = await loadTokenizer(path)
    const batches = await Promise.all(mixedPartitions.map(async (_, client) => {
      const { examples } = await loadDataset(data(client), tokenizer, { lossOn: 'completion', maxLength: work.maxTokens + 1 })
      return new Batches(examples, { seed: '0', sequences: work.sequences, mode: 'padded', windowLength: work.maxTokens })
    }))
    const cursors = batches.map(() => ({ epoch: 0, index: 0 }))
    for (let round = 0; round < ROUNDS; round++) {
      const taken = batches.map((own, client) => own.at(cursors[client]!))
      for (const [client, { next }] of taken.entries()) cursors[client] = next
      await trainer.step(taken.map(({ batch }) => batch), { learningRate: 1e-2 })
    }
    const values = await trainer.values()
    trainer.free()
    return values
  }

  it('is, with whole blocks at the ends and in the middle, what one machine trains, and is exported both ways', async () => {
    const blocks = [1, 2, 4]
    await trained({ trainBlocks: blocks }, async (federation) => {
      const expected = await centralised({ ...adapters, blocks })
      const out = join(root, 'merged')
      await federation.clients[0]!.peer.ask('export', { out, merged: true, model: path })
      const [merged, base] = [await openModelDirectory(out), await openModelDirectory(path)]
      const own = [...expected].filter(([name]) => !name.includes('.lora_'))
      expect(own.filter(([name]) => name.startsWith('model.layers.2.'))).toHaveLength(9)
      for (const [name, { data }] of own) {
        const [actual, before] = [(await merged.read(name)).data as Float32Array, (await base.read(name)).data as Float32Array]
        expect(relativeError(actual, data as Float32Array), name).toBeLessThan(TOLERANCE)
        expect(relativeError(actual, before), name).toBeGreaterThan(1e-3)
      }
      const adapter = await federation.clients[0]!.export(join(root, 'blocks'))
      expect(adapter.modulesToSave).toHaveLength(9 * blocks.length)
      expect(adapter.tensors.size).toBe(expected.size)
      for (const [name, { data }] of own)
        expect(relativeError(adapter.tensors.get(`base_model.model.${name}`)?.data as Float32Array, data as Float32Array), name)
          .toBeLessThan(TOLERANCE)
    })
  })

  it.each([['all', 7], ['lora_only', 2]] as const)(
    'is, with biases beside adapters (%s), what one machine trains',
    async (bias, biasesPerBlock) => {
      const model = join(root, `biased-${bias}`)
      await writeTinyModel(model, { attention_bias: true, mlp_bias: true })
      await trained({ trainBias: bias }, async (federation) => {
        const expected = await centralised({ ...adapters, bias }, { model })
        const exported = await federation.clients[2]!.export(join(root, `biases-${bias}`))
        const base = await openModelDirectory(model)
        const biases = [...expected.keys()].filter((name) => name.endsWith('.bias'))
        expect(biases).toHaveLength(5 * biasesPerBlock)
        expect(exported.tensors.size).toBe(expected.size)
        for (const [name, { data }] of expected) {
          const isAdapted = adapters.targets.includes(name.split('.').at(-2)!)
          const { data: actual } = exported.tensors.get(
            isAdapter(name) ? peftTensorName('model.layers', name) : peftBiasName(name, isAdapted)
          )!
          expect(relativeError(actual as Float32Array, data as Float32Array), name).toBeLessThan(TOLERANCE)
          if (!isAdapter(name))
            expect(relativeError(actual as Float32Array, (await base.read(name)).data as Float32Array), name).toBeGreaterThan(1e-3)
        }
      }, model)
    }
  )

  it('is exported only merged where every block is whole', async () => {
    const federation = await startFederation({ model: path, charter: { ...charter, trainBlocks: [0, 1, 2, 3, 4] }, clients: [] })
    try {
      await expect(federation.server.ask('export', { out: join(root, 'no') })).rejects.toMatchObject({
        code: 'E_EXPORT',
        message: expect.stringContaining('every block is trained whole') as string
      })
    } finally {
      await federation.stop()
    }
  })

  it('starts from an adapter, whose tensors clients fetch with their ends', async () => {
    const shapes = { q_proj: [[2, 16], [16, 2]], v_proj: [[2, 16], [8, 2]] } as const
    const tensors = new Map<string, Tensor>()
    for (let layer = 0; layer < 5; layer++) {
      for (const [module, sides] of Object.entries(shapes)) {
        for (const [side, shape] of sides.entries()) {
          const name = `model.layers.${layer}.self_attn.${module}.lora_${'AB'[side]}`
          tensors.set(`base_model.model.${name}.weight`, formulaLora('imported', name, shape))
        }
      }
    }
    const adapter: PeftAdapter = { baseModel: null, r: 2, alpha: 3, dropout: 0, targets: ['q_proj', 'v_proj'], rslora: true, tensors }
    await writePeftAdapter(join(root, 'adapter'), { ...adapter, dtype: 'F32' })
    const config = join(root, 'adapter', 'adapter_config.json')
    await writeFile(config, JSON.stringify({ ...JSON.parse(await readFile(config, 'utf8')) as object, lora_alpha: 3, use_rslora: true })) // as newer releases of PEFT write it
    await trained({ adapter: join(root, 'adapter') }, async (federation) => {
      const expected = await centralised({ ...adapters, r: 2, alpha: 3, rslora: true, targets: ['q_proj', 'v_proj'], imported: true }, {
        imported: tensors
      })
      const exported = await federation.clients[1]!.export(join(root, 'exported'))
      expect(exported).toMatchObject({ r: 2, alpha: 3 * Math.sqrt(2), targets: ['q_proj', 'v_proj'] })
      expect(exported.tensors.size).toBe(expected.size)
      for (const [name, { data }] of expected) {
        const actual = exported.tensors.get(`base_model.model.model.layers.${name}.weight`)?.data as Float32Array
        expect(relativeError(actual, data as Float32Array), name).toBeLessThan(TOLERANCE)
      }
    })
  })

  it.each([
    ['a block that is missing', { trainBlocks: [5] }, 'no block 5'],
    ['biases of a model without', { trainBias: 'all' as const }, 'no biases']
  ])('is refused for %s', async (_, changes, message) => {
    await expect(startFederation({ model: path, charter: changes, clients: [] })).rejects.toThrow(message)
  })
})
