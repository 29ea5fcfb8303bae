import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { Tensor } from '../../tensor.ts'
import { makeDirectories, replaceFile, writeFully } from './atomic.ts'
import { narrow } from './conversion.ts'
import { readJsonObject } from './directory.ts'
import type { SaveDType } from './dtypes.ts'
import { AdapterError } from './errors.ts'
import { parsePeftConfig, peftConfig, portableSettings, type LoraSettings } from './peft-config.ts'
import { SafetensorsFile, writeSafetensorsFrom } from './safetensors.ts'

const configFile = 'adapter_config.json'
/** Where an adapter directory has its tensors. */
export const adapterWeightsFile = 'adapter_model.safetensors'
const cardFile = 'README.md'

/** The files that an exported adapter consists of. */
export const peftFiles: readonly string[] = [adapterWeightsFile, configFile, cardFile]

const pickleFile = 'adapter_model.bin'

/** What PEFT puts before every module path of the wrapped model. */
const wrapperPrefix = 'base_model.model.'

const biasPattern = /^base_model\.model\..+\.bias$/

const ownPattern = /^base_model\.model\.(.+)\.(?:weight|bias)$/

const pairPattern = /^(.+)\.lora_([AB])\.weight$/

/** Tensors of an adapter that are named as in the state of the model that PEFT wrapped, and those of an embedding. */
const namedPattern = /\.lora_[AB]\.[^.]+\.weight$/
const embeddingPattern = /\.lora_embedding_[AB](?:\.[^.]+)?$/

export interface PeftAdapter extends LoraSettings {
  /** By PEFT's names; `…lora_A.weight` is [r, in], `…lora_B.weight` is [out, r]. float32. */
  readonly tensors: ReadonlyMap<string, Tensor>
}

/** `3.self_attn.q_proj.lora_A` in PEFT's words; `layersPrefix` is where the family keeps its blocks, such as `model.layers`. */
export function peftTensorName (layersPrefix: string, name: string): string {
  return `${wrapperPrefix}${layersPrefix}.${name}.weight`
}

/** Returns a bias of the base model in PEFT's words: that of an adapted module belongs to the layer that PEFT wrapped. */
export function peftBiasName (name: string, isAdapted: boolean): string {
  return `${wrapperPrefix}${name.slice(0, -'.bias'.length)}${isAdapted ? '.base_layer' : ''}.bias`
}

/** Returns a weight of a module that was trained whole, in PEFT's words. */
export function peftSavedName (name: string): string {
  return `${wrapperPrefix}${name}`
}

/** Returns the inverse of `peftTensorName`; undefined for a name that belongs to no block. */
export function internalTensorName (layersPrefix: string, peftName: string): string | undefined {
  const prefix = `${wrapperPrefix}${layersPrefix}.`
  if (!peftName.startsWith(prefix) || !pairPattern.test(peftName)) return undefined
  const name = peftName.slice(prefix.length, -'.weight'.length)
  return /^\d+\./.test(name) ? name : undefined
}

/**
 * Returns the modules that an adapter changes: `path` in the base model, such as `model.layers.3.self_attn.q_proj`, and `wrapped` as PEFT
 * has it.
 */
export function modulesOf ({ tensors }: Pick<PeftAdapter, 'tensors'>): Array<{ readonly path: string, readonly wrapped: string }> {
  const wrapped = [...tensors.keys()].flatMap((name) => pairPattern.exec(name)?.[2] === 'A' ? [pairPattern.exec(name)![1]!] : [])
  return wrapped.map((name) => ({ path: name.slice(wrapperPrefix.length), wrapped: name }))
}

/**
 * Writes an adapter directory that `PeftModel.from_pretrained` loads, of every release since 0.7. Existing files are replaced atomically,
 * the configuration last, and read again. Throws AdapterError for inconsistent tensors, and for what does not come back as it was written.
 */
export async function writePeftAdapter (dir: string, { dtype, ...adapter }: PeftAdapter & { readonly dtype: SaveDType }): Promise<void> {
  const portable = portableSettings(adapter)
  checkTensors(portable, dir)
  await makeDirectories(dir)
  const specs = new Map([...adapter.tensors].map(([name, { shape }]) => [name, { dtype, shape }] as const))
  await writeSafetensorsFrom(
    join(dir, adapterWeightsFile),
    specs,
    (name) => [narrow(dtype, adapter.tensors.get(name)!.data as Float32Array)]
  )
  await writeText(join(dir, cardFile), modelCard(adapter))
  await writeText(join(dir, configFile), `${JSON.stringify(peftConfig(portable), null, 2)}\n`)
  await verify(dir, portable, dtype)
}

/** Loads what was written as anybody's adapter. */
async function verify (dir: string, { tensors, ...settings }: PeftAdapter, dtype: SaveDType): Promise<void> {
  const { tensors: names, ...found } = await readPeftAdapter(dir)
  const file = await SafetensorsFile.open(join(dir, adapterWeightsFile))
  const differs = names.size !== tensors.size || [...tensors.keys()].some((name) => !names.has(name))
  if (differs || !isDeepStrictEqual(found, settings)) throw new AdapterError(`${dir} does not read as it was written`)
  for (const [name, { data }] of tensors) {
    const bytes = narrow(dtype, data as Float32Array)
    if (Buffer.compare(await file.readRaw(name, 0, bytes.byteLength), bytes) !== 0)
      throw new AdapterError(`${name} did not come back from ${dir} as it was written`, 'write to another disk')
  }
}

/** Reads a LoRA adapter. Throws AdapterError, naming the setting, for kinds of adapter that Midspan does not compute. */
export async function readPeftAdapter (dir: string): Promise<PeftAdapter> {
  const raw = await readJsonObject(join(dir, configFile)).catch((error: unknown) => {
    throw new AdapterError(`${dir} has no readable ${configFile}`, 'name a directory that PEFT or Midspan wrote', error)
  })
  const settings = parsePeftConfig(raw, join(dir, configFile))
  const file = await SafetensorsFile.open(join(dir, adapterWeightsFile)).catch(async (error: unknown) => {
    if (await stat(join(dir, pickleFile)).then(() => true, () => false))
      throw new AdapterError(
        `${dir} holds its weights as a pickle only (${pickleFile}), which can run code when it is loaded`,
        'save the adapter with safe_serialization=True',
        error
      )
    throw new AdapterError(`${dir} has no readable ${adapterWeightsFile}`, 'save the adapter with safe_serialization=True', error)
  })
  const tensors = new Map<string, Tensor>()
  for (const name of file.tensors.keys()) tensors.set(name, await file.read(name))
  const { modulesToSave } = settings
  const adapter = {
    ...settings,
    ...(modulesToSave === undefined ? {} : { modulesToSave: modulesToSave.flatMap((name) => savedPaths(name, tensors.keys())) }),
    tensors
  }
  checkTensors(adapter, dir)
  return adapter
}

/**
 * Returns the paths of the modules that `modules_to_save` names, by their whole path or, as PEFT allows, its end; the name itself without
 * any.
 */
function savedPaths (name: string, tensorNames: Iterable<string>): string[] {
  const paths = [...tensorNames].flatMap((tensor) => pairPattern.test(tensor) ? [] : ownPattern.exec(tensor)?.[1] ?? [])
  const found = [...new Set(paths)].filter((path) => path === name || path.endsWith(`.${name}`))
  return found.length === 0 ? [name] : found
}

function checkTensors ({ r, targets, bias, modulesToSave = [], tensors }: PeftAdapter, where: string): void {
  if (tensors.size === 0) throw new AdapterError(`${where}: the adapter holds no tensors`)
  const saved = new Set(modulesToSave)
  const lost = modulesToSave.find((module) => !tensors.has(peftSavedName(`${module}.weight`)))
  if (lost !== undefined)
    throw new AdapterError(
      `${where}: modules_to_save names ${lost}, and the adapter holds no weight of it`,
      'save the adapter again, with its modules'
    )
  for (const [name, { dtype, shape }] of tensors) {
    const fault = (what: string): AdapterError => new AdapterError(`${where}: ${name} ${what}`)
    if (dtype !== 'float32') throw fault(`is ${dtype}, not float32`)
    if (saved.has(ownPattern.exec(name)?.[1] ?? '')) continue
    if (bias !== undefined && biasPattern.test(name)) {
      if (shape.length !== 1) throw fault(`is [${shape.join(', ')}], not a vector`)
      continue
    }
    const [, module, side] = pairPattern.exec(name) ?? []
    if (namedPattern.test(name))
      throw new AdapterError(
        `${where}: ${name} has the name of the adapter in it, as the state of a running model has`,
        'save the adapter with save_pretrained of PEFT'
      )
    if (embeddingPattern.test(name)) throw fault('adapts the embedding, which Midspan does not compute')
    if (module === undefined && ownPattern.test(name))
      throw new AdapterError(
        `${where}: ${name} is not a LoRA tensor, but the model's own: it was trained whole, or the vocabulary was resized`,
        'merge the adapter into its model with PEFT, and start from that'
      )
    if (module === undefined || !name.startsWith(wrapperPrefix)) throw fault('is not a LoRA tensor')
    if (!targets.some((target) => module.endsWith(`.${target}`))) throw fault(`belongs to none of the target modules ${targets.join(', ')}`)
    if (shape.length !== 2 || shape[side === 'A' ? 0 : 1] !== r) throw fault(`is [${shape.join(', ')}], not of rank ${r}`)
    const partner = `${module}.lora_${side === 'A' ? 'B' : 'A'}.weight`
    if (!tensors.has(partner)) throw fault(`has no ${partner}`)
  }
}

function modelCard ({ baseModel, r, alpha, dropout, targets, rslora }: LoraSettings): string {
  const front = [
    'library_name: peft',
    ...(baseModel === null ? [] : [`base_model: ${JSON.stringify(baseModel)}`]),
    'tags:',
    '- lora',
    '- midspan'
  ]
  return `---
${front.join('\n')}
---

# LoRA adapter${baseModel === null ? '' : ` for ${baseModel}`}

Trained with Midspan. Rank ${r}, alpha ${alpha}${
  rslora ? ", rank-stabilised (which stands in the configuration's alpha, so that PEFT 0.7 reads it too)" : ''
}, dropout ${dropout}, on ${targets.toSorted().join(', ')}.

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(${JSON.stringify(baseModel ?? 'path/to/base-model')})
model = PeftModel.from_pretrained(model, 'path/to/this/directory')
\`\`\`
`
}

async function writeText (path: string, text: string): Promise<void> {
  await replaceFile(path, async (handle) => { await writeFully(handle, new TextEncoder().encode(text)) })
}
