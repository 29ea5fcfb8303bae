import { mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { loraScale } from '../../../src/model/checkpoint/peft-config.ts'
import {
  internalTensorName,
  peftBiasName,
  peftSavedName,
  peftTensorName,
  readPeftAdapter,
  writePeftAdapter,
  type PeftAdapter
} from '../../../src/model/checkpoint/peft.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { readGolden } from '../../helpers/golden.ts'

/** What PEFT saves for its kinds of LoRA, from test/reference/peft_configs_golden.py. */
const { kinds } = readGolden<{
  kinds: Record<string, { readonly config: { readonly init_lora_weights: string | boolean }, readonly plain: boolean }>
}>('peft-configs.json')

let dir: string
beforeEach(async () => { dir = await mkdtemp(join(tmpdir(), 'midspan-peft-')) })
afterEach(async () => { await rm(dir, { recursive: true }) })

const tensors = new Map<string, Tensor>([
  [peftTensorName('model.layers', '3.self_attn.q_proj.lora_A'), float32([2, 3], [1, 2, 3, 4, 5, 6])],
  [peftTensorName('model.layers', '3.self_attn.q_proj.lora_B'), float32([4, 2], [1, 2, 3, 4, 5, 6, 7, 8])]
])
const adapter: PeftAdapter = {
  baseModel: 'org/model',
  r: 2,
  alpha: 4,
  dropout: 0.05,
  targets: ['v_proj', 'q_proj'],
  rslora: false,
  tensors
}

/**
 * The fields of LoraConfig and its bases in PEFT 0.7.0 and 0.7.1 (src/peft/config.py, src/peft/tuners/lora/config.py), which take no
 * others.
 */
const PEFT_0_7_FIELDS = [
  'peft_type',
  'auto_mapping',
  'base_model_name_or_path',
  'revision',
  'task_type',
  'inference_mode',
  'r',
  'target_modules',
  'lora_alpha',
  'lora_dropout',
  'fan_in_fan_out',
  'bias',
  'modules_to_save',
  'init_lora_weights',
  'layers_to_transform',
  'layers_pattern',
  'rank_pattern',
  'alpha_pattern',
  'megatron_config',
  'megatron_core',
  'loftq_config'
]

async function patchConfig (patch: Record<string, unknown>): Promise<void> {
  const path = join(dir, 'adapter_config.json')
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')) as object, ...patch }))
}

describe('tensor names', () => {
  it('map both ways for any family', () => {
    const name = '11.attention.query_key_value.lora_B'
    const peft = peftTensorName('transformer.encoder.layers', name)
    expect(peft).toBe('base_model.model.transformer.encoder.layers.11.attention.query_key_value.lora_B.weight')
    expect(internalTensorName('transformer.encoder.layers', peft)).toBe(name)
  })

  it('are undefined outside the blocks', () => {
    expect(internalTensorName('model.layers', 'base_model.model.lm_head.lora_A.weight')).toBeUndefined()
    expect(internalTensorName('model.layers', 'base_model.model.model.layers.0.norm.weight')).toBeUndefined()
  })
})

describe('an adapter directory', () => {
  it('comes back as it was written', async () => {
    await writePeftAdapter(dir, { ...adapter, dtype: 'F32' })
    expect(await readPeftAdapter(dir)).toEqual({ ...adapter, targets: ['q_proj', 'v_proj'] })
  })

  it('holds biases that were trained too', async () => {
    const biases: ReadonlyArray<readonly [string, Tensor]> = [
      [peftBiasName('model.layers.3.self_attn.q_proj.bias', true), float32([4], [1, 2, 3, 4])],
      [peftBiasName('model.layers.3.mlp.up_proj.bias', false), float32([2], [5, 6])]
    ]
    const biased: PeftAdapter = { ...adapter, targets: ['q_proj', 'v_proj'], bias: 'all', tensors: new Map([...tensors, ...biases]) }
    await writePeftAdapter(dir, { ...biased, dtype: 'F32' })
    expect([...biased.tensors.keys()]).toContain('base_model.model.model.layers.3.self_attn.q_proj.base_layer.bias')
    expect(await readPeftAdapter(dir)).toEqual(biased)
    await expect(writePeftAdapter(dir, { ...adapter, tensors: biased.tensors, dtype: 'F32' })).rejects.toThrow('is not a LoRA tensor')
  })

  it('holds modules that were trained whole', async () => {
    const names = ['model.layers.2.mlp.up_proj', 'model.layers.2.input_layernorm']
    const saved: PeftAdapter = {
      ...adapter,
      bias: 'all',
      modulesToSave: names,
      tensors: new Map([...tensors, [peftSavedName(`${names[0]!}.weight`), float32([1, 2], [1, 2])], [
        peftSavedName(`${names[0]!}.bias`),
        float32([1], [3])
      ], [peftSavedName(`${names[1]!}.weight`), float32([2], [4, 5])]])
    }
    await writePeftAdapter(dir, { ...saved, dtype: 'F32' })
    expect([...saved.tensors.keys()]).toContain('base_model.model.model.layers.2.mlp.up_proj.bias')
    expect(await readPeftAdapter(dir)).toEqual({ ...saved, targets: ['q_proj', 'v_proj'], modulesToSave: names.toSorted() })
    await expect(writePeftAdapter(dir, { ...adapter, tensors: saved.tensors, dtype: 'F32' })).rejects.toThrow('is not a LoRA tensor')
  })

  it.each<[string, Partial<PeftAdapter>]>([
    ['plain', {}],
    ['rank-stabilised', { rslora: true }],
    ['with biases', { bias: 'lora_only' }],
    ['with whole modules', {
      modulesToSave: ['model.layers.2.mlp.up_proj'],
      tensors: new Map([...tensors, [peftSavedName('model.layers.2.mlp.up_proj.weight'), float32([1, 1], [1])]])
    }]
  ])('has a configuration that PEFT 0.7 reads, in the order and form in which it writes one: %s', async (_, changes) => {
    await writePeftAdapter(dir, { ...adapter, ...changes, dtype: 'BF16' })
    const text = await readFile(join(dir, 'adapter_config.json'), 'utf8')
    const config = JSON.parse(text) as Record<string, unknown>
    expect(Object.keys(config).filter((field) => !PEFT_0_7_FIELDS.includes(field))).toEqual([])
    expect(Object.keys(config)).toEqual(Object.keys(config).sort())
    expect(text.startsWith('{\n  "alpha_pattern": {},')).toBe(true)
    expect(config).toMatchObject({ peft_type: 'LORA', task_type: 'CAUSAL_LM', inference_mode: true, target_modules: ['q_proj', 'v_proj'] })
  })

  it('has the scale of a rank-stabilised adapter in its alpha', async () => {
    const stabilised = { ...adapter, rslora: true }
    await writePeftAdapter(dir, { ...stabilised, dtype: 'F32' })
    const { alpha, r, rslora } = await readPeftAdapter(dir)
    expect({ alpha, rslora }).toEqual({ alpha: 4 * Math.sqrt(2), rslora: false })
    expect(loraScale({ alpha, r, rslora })).toBeCloseTo(loraScale(stabilised), 14)
  })

  it('is read as rank-stabilised where PEFT says so', async () => {
    await writePeftAdapter(dir, { ...adapter, dtype: 'F32' })
    await patchConfig({ use_rslora: true })
    expect(await readPeftAdapter(dir)).toMatchObject({ alpha: 4, rslora: true })
  })

  it('has a card that names the base model', async () => {
    await writePeftAdapter(dir, { ...adapter, dtype: 'F16', rslora: true })
    const card = await readFile(join(dir, 'README.md'), 'utf8')
    expect(card).toContain('base_model: "org/model"')
    expect(card).toContain('alpha 4, rank-stabilised')
  })

  it.each([
    ['use_dora', true],
    ['bias', 'some'],
    ['modules_to_save', ['lm_head']],
    ['rank_pattern', { q_proj: 4 }],
    ['alpha_pattern', { q_proj: 4 }],
    ['layers_to_transform', [1]],
    ['fan_in_fan_out', true],
    ['target_modules', 'all-linear'],
    ['peft_type', 'IA3'],
    ['r', 0],
    ['r', 3]
  ])('is refused by name when %s is %j', async (field, value) => {
    await writePeftAdapter(dir, { ...adapter, dtype: 'F32' })
    await patchConfig({ [field]: value })
    await expect(readPeftAdapter(dir)).rejects.toMatchObject({
      code: 'E_ADAPTER',
      message: expect.stringMatching(field === 'r' && value === 3 ? 'rank 3' : field) as string
    })
  })

  it.each(Object.entries(kinds))('that PEFT makes with %s is read only where it is plain LoRA', async (_, { config, plain }) => {
    await writePeftAdapter(dir, { ...adapter, dtype: 'F32' })
    await writeFile(join(dir, 'adapter_config.json'), JSON.stringify({ ...config, r: 2 }))
    const read = readPeftAdapter(dir)
    if (plain) expect(await read).toMatchObject({ r: 2, alpha: 8, tensors })
    else await expect(read).rejects.toThrow(`sets init_lora_weights to ${config.init_lora_weights}`)
  })

  it.each(['init pissa', 'init pissa_niter_4', 'init olora', 'init corda', 'init lora_ga'])(
    'that PEFT makes with %s is refused with how to convert it, and read once PEFT has converted it',
    async (kind) => {
      const { config } = kinds[kind]!
      await writePeftAdapter(dir, { ...adapter, dtype: 'F32' })
      const write = async (changes: object): Promise<void> => {
        await writeFile(join(dir, 'adapter_config.json'), JSON.stringify({ ...config, r: 1, ...changes }))
      }
      await write({})
      await expect(readPeftAdapter(dir)).rejects.toMatchObject({
        next: expect.stringContaining('path_initial_model_for_weight_conversion') as string
      })
      // The conversion doubles rank and alpha, and leaves a plain beginning.
      await write({ r: 2, lora_alpha: 16, init_lora_weights: true })
      expect(await readPeftAdapter(dir)).toMatchObject({ r: 2, alpha: 16, tensors })
    }
  )

  it.each([
    ['velora_config', { rank: 1 }], ['monteclora_config', {}], ['kasa_config', { beta: 1 }], ['use_bdlora', { target_modules_bd_a: [] }],
    ['arrow_config', { top_k: 3 }], ['a_setting_of_tomorrow', 'yes'], ['init_lora_weights', 'tomorrow'], ['use_qalora', true]
  ])('is refused by name for %s, %j, where that is set', async (field, value) => {
    await writePeftAdapter(dir, { ...adapter, dtype: 'F32' })
    await patchConfig({ [field]: value })
    if (typeof value === 'object' && Object.keys(value).length === 0) return expect((await readPeftAdapter(dir)).r).toBe(2)
    await expect(readPeftAdapter(dir)).rejects.toThrow(`sets ${field}`)
  })

  it.each(['lora_alpha', 'r', 'target_modules'])('is refused without %s, in these words', async (field) => {
    await writePeftAdapter(dir, { ...adapter, dtype: 'F32' })
    await patchConfig({ [field]: undefined })
    await expect(readPeftAdapter(dir)).rejects.toMatchObject({
      message: `${join(dir, 'adapter_config.json')} lacks ${field}`,
      next: `add the ${field} that the adapter was trained with`
    })
  })

  it('is refused in the format of MLX, in these words', async () => {
    await writeFile(join(dir, 'adapter_config.json'), JSON.stringify({
      fine_tune_type: 'lora', num_layers: 16, lora_parameters: { rank: 8, scale: 20, dropout: 0 }
    }))
    await expect(readPeftAdapter(dir)).rejects.toThrow('in the format of MLX')
  })

  it('has the embedding and the head by their paths where PEFT names them by their ends', async () => {
    const own = [peftSavedName('model.embed_tokens.weight'), peftSavedName('lm_head.weight')]
    const whole = new Map([...tensors, ...own.map((name) => [name, float32([1, 2], [1, 2])] as const)])
    const modulesToSave = ['model.embed_tokens', 'lm_head']
    await writePeftAdapter(dir, { ...adapter, modulesToSave, tensors: whole, dtype: 'F32' })
    await patchConfig({ modules_to_save: ['embed_tokens', 'lm_head'] })
    expect((await readPeftAdapter(dir)).modulesToSave).toEqual(modulesToSave)
    // Saved beside an adapter because the vocabulary was resized, they are in no setting.
    await patchConfig({ modules_to_save: null })
    await expect(readPeftAdapter(dir)).rejects.toThrow("but the model's own: it was trained whole, or the vocabulary was resized")
  })

  it('is refused when a tensor lacks its partner or belongs to no target', async () => {
    const [a] = tensors
    await expect(writePeftAdapter(dir, { ...adapter, tensors: new Map([a!]), dtype: 'F32' })).rejects.toThrow('has no')
    await expect(writePeftAdapter(dir, { ...adapter, targets: ['k_proj'], dtype: 'F32' })).rejects.toThrow('none of the target modules')
  })

  it.each([
    ['base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight', 'has the name of the adapter in it'],
    ['base_model.model.model.embed_tokens.lora_embedding_A', 'adapts the embedding']
  ])('is refused with a tensor %s, in these words', async (name, reason) => {
    const more = new Map([...tensors, [name, float32([1, 1], [1])] as const])
    await expect(writePeftAdapter(dir, { ...adapter, tensors: more, dtype: 'F32' })).rejects.toThrow(reason)
  })

  it('is refused by name when its weights are a pickle', async () => {
    await writePeftAdapter(dir, { ...adapter, dtype: 'F32' })
    await rename(join(dir, 'adapter_model.safetensors'), join(dir, 'adapter_model.bin'))
    await expect(readPeftAdapter(dir)).rejects.toThrow('as a pickle only (adapter_model.bin)')
  })

  it('is refused when it is not there', async () => {
    await expect(readPeftAdapter(dir)).rejects.toMatchObject({ code: 'E_ADAPTER' })
  })
})

describe('the scale of an adapter', () => {
  it('is alpha / r, or alpha / sqrt(r) when rank-stabilised', () => {
    expect(loraScale({ r: 16, alpha: 32, rslora: false })).toBe(2)
    expect(loraScale({ r: 16, alpha: 32, rslora: true })).toBe(8)
  })
})
