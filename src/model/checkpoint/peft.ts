import { mkdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'
import type { Tensor } from '../../tensor.ts'
import { replaceFile, writeFully } from './atomic.ts'
import { readJsonObject } from './directory.ts'
import { narrow, type SaveDType } from './dtypes.ts'
import { AdapterError } from './errors.ts'
import { SafetensorsFile, writeSafetensorsFrom } from './safetensors.ts'

const configFile = 'adapter_config.json'
/** Where an adapter directory has its tensors. */
export const adapterWeightsFile = 'adapter_model.safetensors'
const pickleFile = 'adapter_model.bin'

/** What PEFT puts before every module path of the wrapped model. */
const wrapperPrefix = 'base_model.model.'

const biasPattern = /^base_model\.model\..+\.bias$/

const pairPattern = /^(.+)\.lora_([AB])\.weight$/

/** The settings of a LoRA adapter, in PEFT's terms. */
export interface LoraSettings {
  /** The model's name or path, as PEFT should look it up; null when unknown. */
  readonly baseModel: string | null
  readonly r: number
  readonly alpha: number
  readonly dropout: number
  /** Leaf names of the adapted modules, such as `q_proj`. */
  readonly targets: readonly string[]
  /** True: the update is scaled by alpha / sqrt(r) rather than alpha / r. */
  readonly rslora: boolean
  /** The base model's biases that were trained too, and are among the tensors; none when left out. */
  readonly bias?: 'all' | 'lora_only'
}

export interface PeftAdapter extends LoraSettings {
  /** By PEFT's names; `…lora_A.weight` is [r, in], `…lora_B.weight` is [out, r]. float32. */
  readonly tensors: ReadonlyMap<string, Tensor>
}

/** What the update B·A is multiplied by. */
export function loraScale ({ r, alpha, rslora }: Pick<LoraSettings, 'r' | 'alpha' | 'rslora'>): number {
  return alpha / (rslora ? Math.sqrt(r) : r)
}

/** `3.self_attn.q_proj.lora_A` in PEFT's words; `layersPrefix` is where the family keeps its blocks, such as `model.layers`. */
export function peftTensorName (layersPrefix: string, name: string): string {
  return `${wrapperPrefix}${layersPrefix}.${name}.weight`
}

/** A bias of the base model in PEFT's words: that of an adapted module belongs to the layer that PEFT wrapped. */
export function peftBiasName (name: string, isAdapted: boolean): string {
  return `${wrapperPrefix}${name.slice(0, -'.bias'.length)}${isAdapted ? '.base_layer' : ''}.bias`
}

/** The inverse of `peftTensorName`; undefined for a name that belongs to no block. */
export function internalTensorName (layersPrefix: string, peftName: string): string | undefined {
  const prefix = `${wrapperPrefix}${layersPrefix}.`
  if (!peftName.startsWith(prefix) || !pairPattern.test(peftName)) return undefined
  const name = peftName.slice(prefix.length, -'.weight'.length)
  return /^\d+\./.test(name) ? name : undefined
}

/** The modules that an adapter changes: `path` in the base model, such as `model.layers.3.self_attn.q_proj`, and `wrapped` as PEFT has it. */
export function modulesOf ({ tensors }: Pick<PeftAdapter, 'tensors'>): Array<{ readonly path: string, readonly wrapped: string }> {
  const wrapped = [...tensors.keys()].flatMap(name => pairPattern.exec(name)?.[2] === 'A' ? [pairPattern.exec(name)![1]!] : [])
  return wrapped.map(name => ({ path: name.slice(wrapperPrefix.length), wrapped: name }))
}

/**
 * Writes an adapter directory that `PeftModel.from_pretrained` loads, also in old releases: the configuration holds only fields
 * that they all know. Existing files are replaced atomically, the configuration last, and read again. Throws AdapterError for inconsistent
 * tensors, and for what does not come back as it was written.
 */
export async function writePeftAdapter (dir: string, { dtype, ...adapter }: PeftAdapter & { readonly dtype: SaveDType }): Promise<void> {
  checkTensors(adapter, dir)
  await mkdir(dir, { recursive: true })
  const specs = new Map([...adapter.tensors].map(([name, { shape }]) => [name, { dtype, shape }] as const))
  await writeSafetensorsFrom(join(dir, adapterWeightsFile), specs, name => [narrow(dtype, adapter.tensors.get(name)!.data as Float32Array)])
  await writeText(join(dir, 'README.md'), modelCard(adapter))
  await writeText(join(dir, configFile), `${JSON.stringify(peftConfig(adapter), null, 2)}\n`)
  await verify(dir, adapter, dtype)
}

/** Loads what was written as anybody's adapter. */
async function verify (dir: string, { tensors, ...settings }: PeftAdapter, dtype: SaveDType): Promise<void> {
  const { tensors: names, ...found } = await readPeftAdapter(dir)
  const file = await SafetensorsFile.open(join(dir, adapterWeightsFile))
  const differs = names.size !== tensors.size || [...tensors.keys()].some(name => !names.has(name))
  if (differs || !isDeepStrictEqual(found, { ...settings, targets: settings.targets.toSorted() })) throw new AdapterError(`${dir} does not read as it was written`)
  for (const [name, { data }] of tensors) {
    const bytes = narrow(dtype, data as Float32Array)
    if (Buffer.compare(await file.readRaw(name, 0, bytes.byteLength), bytes) !== 0) throw new AdapterError(`${name} did not come back from ${dir} as it was written`, 'write to another disk')
  }
}

/** Reads a LoRA adapter. Throws AdapterError, naming the setting, for kinds of adapter that Midspan does not compute. */
export async function readPeftAdapter (dir: string): Promise<PeftAdapter> {
  const raw = await readJsonObject(join(dir, configFile)).catch((error: unknown) => {
    throw new AdapterError(`${dir} has no readable ${configFile}`, 'name a directory that PEFT or Midspan wrote', error)
  })
  const settings = parseConfig(raw, join(dir, configFile))
  const file = await SafetensorsFile.open(join(dir, adapterWeightsFile)).catch(async (error: unknown) => {
    if (await stat(join(dir, pickleFile)).then(() => true, () => false)) throw new AdapterError(`${dir} holds its weights as a pickle only (${pickleFile}), which can run code when it is loaded`, 'save the adapter with safe_serialization=True', error)
    throw new AdapterError(`${dir} has no readable ${adapterWeightsFile}`, 'save the adapter with safe_serialization=True', error)
  })
  const tensors = new Map<string, Tensor>()
  for (const name of file.tensors.keys()) tensors.set(name, await file.read(name))
  const adapter = { ...settings, tensors }
  checkTensors(adapter, dir)
  return adapter
}

const configSchema = z.object({
  peft_type: z.literal('LORA'),
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number().positive(),
  lora_dropout: z.number().min(0).max(1).default(0),
  target_modules: z.array(z.string().min(1)).min(1),
  use_rslora: z.boolean().default(false),
  bias: z.enum(['none', 'all', 'lora_only']).default('none')
})

/** Settings that change what an adapter computes or holds, each with the values that mean "not used". */
const unsupported: Readonly<Record<string, readonly unknown[]>> = {
  use_dora: [false], fan_in_fan_out: [false], lora_bias: [false], use_qalora: [false],
  modules_to_save: [], rank_pattern: [], alpha_pattern: [], layer_replication: [], trainable_token_indices: [], target_parameters: [],
  alora_invocation_tokens: [], megatron_config: [], layers_to_transform: [], exclude_modules: []
}

function parseConfig (raw: Record<string, unknown>, path: string): LoraSettings {
  for (const [field, unused] of Object.entries(unsupported)) {
    const value = raw[field]
    const empty = value === undefined || value === null || (typeof value === 'object' && Object.keys(value).length === 0)
    if (!empty && !unused.includes(value)) throw new AdapterError(`${path} sets ${field}, which Midspan does not compute`, 'use a plain LoRA adapter')
  }
  const parsed = configSchema.safeParse(raw)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw new AdapterError(`${path}: ${issue.path.join('.')}: ${issue.message}`, 'use a LoRA adapter whose target_modules is a list')
  }
  const { base_model_name_or_path: baseModel, r, lora_alpha: alpha, lora_dropout: dropout, target_modules: targets, use_rslora: rslora, bias } = parsed.data
  return { baseModel: baseModel ?? null, r, alpha, dropout, targets, rslora, ...bias === 'none' ? {} : { bias } }
}

function checkTensors ({ r, targets, bias, tensors }: PeftAdapter, where: string): void {
  if (tensors.size === 0) throw new AdapterError(`${where}: the adapter holds no tensors`)
  for (const [name, { dtype, shape }] of tensors) {
    if (bias !== undefined && biasPattern.test(name)) {
      if (dtype !== 'float32' || shape.length !== 1) throw new AdapterError(`${where}: ${name} is ${dtype} [${shape.join(', ')}], not a vector of float32`)
      continue
    }
    const [, module, side] = pairPattern.exec(name) ?? []
    if (module === undefined || !name.startsWith(wrapperPrefix)) throw new AdapterError(`${where}: ${name} is not a LoRA tensor`)
    if (!targets.some(target => module.endsWith(`.${target}`))) throw new AdapterError(`${where}: ${name} belongs to none of the target modules ${targets.join(', ')}`)
    if (dtype !== 'float32' || shape.length !== 2 || shape[side === 'A' ? 0 : 1] !== r) throw new AdapterError(`${where}: ${name} is ${dtype} [${shape.join(', ')}], not float32 of rank ${r}`)
    const partner = `${module}.lora_${side === 'A' ? 'B' : 'A'}.weight`
    if (!tensors.has(partner)) throw new AdapterError(`${where}: ${name} has no ${partner}`)
  }
}

/** The fields that every PEFT release since 0.6 reads, in the sorted order in which PEFT writes them. */
function peftConfig ({ baseModel, r, alpha, dropout, targets, rslora, bias }: LoraSettings): Record<string, unknown> {
  return {
    alpha_pattern: {},
    auto_mapping: null,
    base_model_name_or_path: baseModel,
    bias: bias ?? 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    lora_alpha: alpha,
    lora_dropout: dropout,
    modules_to_save: null,
    peft_type: 'LORA',
    r,
    rank_pattern: {},
    revision: null,
    target_modules: [...targets].sort(),
    task_type: 'CAUSAL_LM',
    ...(rslora ? { use_rslora: true } : {})
  }
}

function modelCard ({ baseModel, r, alpha, dropout, targets, rslora }: LoraSettings): string {
  const front = ['library_name: peft', ...(baseModel === null ? [] : [`base_model: ${JSON.stringify(baseModel)}`]), 'tags:', '- lora', '- midspan']
  return `---
${front.join('\n')}
---

# LoRA adapter${baseModel === null ? '' : ` for ${baseModel}`}

Trained with Midspan. Rank ${r}, alpha ${alpha}${rslora ? ' (rank-stabilised)' : ''}, dropout ${dropout}, on ${[...targets].sort().join(', ')}.

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(${JSON.stringify(baseModel ?? 'path/to/base-model')})
model = PeftModel.from_pretrained(model, 'path/to/this/directory')
\`\`\`
`
}

async function writeText (path: string, text: string): Promise<void> {
  await replaceFile(path, async handle => { await writeFully(handle, new TextEncoder().encode(text)) })
}
