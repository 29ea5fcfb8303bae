import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { shown } from '../../errors.ts'
import type { Tensor } from '../../tensor.ts'
import type { StoredDType } from './dtypes.ts'
import { MissingTensorError, ModelDirectoryError } from './errors.ts'
import { SafetensorsFile } from './safetensors.ts'

/** A tensor as a directory stores it: its stored type, its shape in elements, the file that holds it, and its size there in bytes. */
export interface TensorInfo {
  readonly dtype: StoredDType
  readonly shape: readonly number[]
  readonly file: string
  readonly bytes: number
}

/** Whatever yields named weights as float32. */
export interface TensorSource {
  /** Throws MissingTensorError for a name that is not there. */
  info (name: string): TensorInfo
  read (name: string, signal?: AbortSignal): Promise<Tensor>
}

/** The files beside the weights that make a model usable: what a client fetches and a fingerprint covers, where present. */
export const companionFiles = [
  'config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json',
  'chat_template.jinja', 'tokenizer.model', 'ice_text.model', 'vocab.json', 'merges.txt'
] as const

/** Text files of a model are small; a tokenizer.json of a large vocabulary takes about 20 MB. */
export const MAX_COMPANION_BYTES = 256 * 1024 * 1024

/** Where quantised checkpoints say so: in config.json, or in a file that quantisers wrote before there was a place for it there. */
const quantizationSettings = ['quantization_config', 'compression_config'] as const
const quantizationFiles = ['quantize_config.json', 'quant_config.json', 'hf_quant_config.json'] as const

/** Rotary tables that old checkpoints carry along; they follow from the configuration. */
const derivedTensor = /(^|\.)inv_freq$/

/** A Hugging Face model directory, whole or with only some of the model's tensors. */
export class ModelDirectory implements TensorSource {
  readonly path: string
  /** config.json as it stands. */
  readonly config: Readonly<Record<string, unknown>>
  /** generation_config.json as it stands, if there is one. */
  readonly generationConfig: Readonly<Record<string, unknown>> | undefined
  /** The companion files that are present, by name. */
  readonly files: readonly string[]
  readonly #home: ReadonlyMap<string, SafetensorsFile>

  constructor (
    path: string,
    config: Readonly<Record<string, unknown>>,
    generationConfig: Readonly<Record<string, unknown>> | undefined,
    files: readonly string[],
    home: ReadonlyMap<string, SafetensorsFile>
  ) {
    this.path = path
    this.config = config
    this.generationConfig = generationConfig
    this.files = files
    this.#home = home
  }

  /** Returns all names, sorted. */
  tensorNames (): string[] {
    return [...this.#home.keys()].sort()
  }

  has (name: string): boolean {
    return this.#home.has(name)
  }

  info (name: string): TensorInfo {
    const file = this.#fileOf(name)
    const { dtype, shape, bytes } = file.tensor(name)
    return { dtype, shape, bytes, file: basename(file.path) }
  }

  /** Returns the tensor as float32. */
  async read (name: string, signal?: AbortSignal): Promise<Tensor> {
    return await this.#fileOf(name).read(name, signal)
  }

  /** Reads `length` bytes of the tensor as stored, from byte `offset` of it. */
  async readRaw (name: string, offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    return await this.#fileOf(name).readRaw(name, offset, length, signal)
  }

  /** Returns the tensor's stored bytes in bounded chunks; each is valid until the next is asked for. */
  chunks (name: string, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    return this.#fileOf(name).chunks(name, signal)
  }

  #fileOf (name: string): SafetensorsFile {
    const file = this.#home.get(name)
    if (file === undefined) throw new MissingTensorError(name, this.path)
    return file
  }
}

/**
 * Opens a model directory: reads its configuration and every header, and checks both. No weights are read.
 * Throws ModelDirectoryError for what is missing or refused, SafetensorsError for a broken weights file.
 */
export async function openModelDirectory (path: string): Promise<ModelDirectory> {
  const present = await listFiles(path)
  if (!present.includes('config.json'))
    throw new ModelDirectoryError(`${path} has no config.json`, 'name a directory that holds a model in the Hugging Face format')
  const config = await readJsonObject(join(path, 'config.json'))
  refuseQuantized(path, config, present)
  const generationConfig = present.includes('generation_config.json')
    ? await readJsonObject(join(path, 'generation_config.json'))
    : undefined
  return new ModelDirectory(
    path,
    config,
    generationConfig,
    companionFiles.filter((name) => present.includes(name)),
    await openWeights(path, present)
  )
}

/** Reads a file beside the weights. Throws ModelDirectoryError for what cannot be read, is no file, or is too large to be meant. */
export async function readCompanion (path: string): Promise<Buffer> {
  const found = await stat(path).catch((error: unknown) => {
    throw new ModelDirectoryError(
      `${path} cannot be read: ${(error as Error).message}`,
      'check the path, its permissions and, where it is a call, its target',
      error
    )
  })
  if (!found.isFile()) throw new ModelDirectoryError(`${path} is no file`)
  if (found.size > MAX_COMPANION_BYTES)
    throw new ModelDirectoryError(`${path} has ${found.size} bytes; at most ${MAX_COMPANION_BYTES} are read`)
  try {
    return await readFile(path)
  } catch (error) {
    throw new ModelDirectoryError(`${path} cannot be read: ${(error as Error).message}`, 'check its permissions', error)
  }
}

/** Reads a file that must hold a JSON object. Throws ModelDirectoryError. */
export async function readJsonObject (path: string): Promise<Record<string, unknown>> {
  const text = (await readCompanion(path)).toString()
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new ModelDirectoryError(`${path} is not valid JSON`, undefined, error)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ModelDirectoryError(`${path} does not hold a JSON object`)
  return value as Record<string, unknown>
}

/** Returns the names of what a directory holds. Throws ModelDirectoryError. */
export async function listFiles (path: string): Promise<string[]> {
  try {
    return await readdir(path)
  } catch (error) {
    throw new ModelDirectoryError(`${path} cannot be read as a directory`, 'check the path and its permissions', error)
  }
}

function refuseQuantized (path: string, config: Readonly<Record<string, unknown>>, present: readonly string[]): void {
  const setting = quantizationSettings.find((name) => config[name] !== undefined && config[name] !== null)
  const sign = setting === undefined ? quantizationFiles.find((name) => present.includes(name)) : `${setting} in config.json`
  if (sign !== undefined)
    throw new ModelDirectoryError(`${path} holds a quantised model (${sign})`, 'use the model in float32, float16 or bfloat16')
}

async function openWeights (path: string, present: readonly string[]): Promise<Map<string, SafetensorsFile>> {
  if (present.includes('model.safetensors')) {
    const file = await SafetensorsFile.open(join(path, 'model.safetensors'))
    return new Map([...file.tensors.keys()].filter((name) => !derivedTensor.test(name)).map((name) => [name, file]))
  }
  if (present.includes('model.safetensors.index.json')) return await openShards(path, present)
  if (present.some((name) => /\.(bin|pt|pth|ckpt)$/.test(name))) {
    throw new ModelDirectoryError(
      `${path} holds its weights as pickles only, which can run code when they are loaded`,
      'convert them with save_pretrained(..., safe_serialization=True)'
    )
  }
  const gguf = present.find((name) => name.endsWith('.gguf'))
  if (gguf !== undefined)
    throw new ModelDirectoryError(
      `${path} holds its weights as ${gguf}, in a format that Midspan does not read`,
      'use the model as safetensors files, in float32, float16 or bfloat16'
    )
  if (present.some((name) => name.endsWith('.safetensors'))) {
    throw new ModelDirectoryError(
      `${path} has several safetensors files but no model.safetensors.index.json`,
      'download the index beside them'
    )
  }
  throw new ModelDirectoryError(`${path} has no model.safetensors and no model.safetensors.index.json`)
}

async function openShards (path: string, present: readonly string[]): Promise<Map<string, SafetensorsFile>> {
  const index = join(path, 'model.safetensors.index.json')
  const { weight_map: weightMap } = await readJsonObject(index)
  if (typeof weightMap !== 'object' || weightMap === null || Array.isArray(weightMap))
    throw new ModelDirectoryError(`${index} has no weight_map`)
  const opened = new Map<string, SafetensorsFile>()
  const home = new Map<string, SafetensorsFile>()
  for (const [name, fileName] of Object.entries(weightMap)) {
    if (derivedTensor.test(name)) continue
    if (typeof fileName !== 'string' || !present.includes(fileName))
      throw new ModelDirectoryError(
        `${path} lacks ${shown(fileName)}, which its index names for tensor ${name}`,
        'download the missing file'
      )
    const file = opened.get(fileName) ?? await SafetensorsFile.open(join(path, fileName))
    opened.set(fileName, file)
    if (!file.tensors.has(name)) throw new ModelDirectoryError(`${join(path, fileName)} lacks tensor ${name}, which the index places there`)
    home.set(name, file)
  }
  for (const [fileName, file] of opened) {
    const twice = [...file.tensors.keys()].find((name) => home.has(name) && home.get(name) !== file)
    if (twice !== undefined)
      throw new ModelDirectoryError(
        `${join(path, fileName)} holds tensor ${twice} too, which the index places in ${basename(home.get(twice)!.path)}`,
        'download the index and the files of one version of the model'
      )
  }
  return home
}
