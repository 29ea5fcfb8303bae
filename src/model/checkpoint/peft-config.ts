import { z } from 'zod'
import { AdapterError } from './errors.ts'

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
  /** Modules of the base model that were trained whole, by their paths in it, and are among the tensors; none when left out. */
  readonly modulesToSave?: readonly string[]
}

/** Returns what the update B·A is multiplied by. */
export function loraScale ({ r, alpha, rslora }: Pick<LoraSettings, 'r' | 'alpha' | 'rslora'>): number {
  return alpha / (rslora ? Math.sqrt(r) : r)
}

const configSchema = z.object({
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number().positive(),
  lora_dropout: z.number().min(0).max(1).default(0),
  target_modules: z.array(z.string().min(1)).min(1),
  use_rslora: z.boolean().default(false),
  bias: z.enum(['none', 'all', 'lora_only']).default('none'),
  modules_to_save: z.array(z.string().min(1)).nullish()
})

/** Ways to begin (`init_lora_weights`) that leave the base model as it is: whatever came of them is plain LoRA. */
const plainBeginning = /^(true|false|gaussian|eva|orthogonal|mica)$/i

/** Ways to begin that take an adapter's start out of the base's weights. PEFT can save such an adapter as plain LoRA of twice the rank. */
const convertibleBeginning = /^(pissa(_niter_\d+)?|olora|corda|lora_ga)$/i

/** Settings that say nothing of what an adapter computes, or are checked on their own. Any other that is set is refused. */
const readSettings: ReadonlySet<string> = new Set([
  ...Object.keys(configSchema.shape), 'init_lora_weights',
  'peft_type', 'peft_version', 'auto_mapping', 'revision', 'task_type', 'inference_mode', 'layers_pattern', 'megatron_core',
  'qalora_group_size', 'runtime_config', 'ensure_weight_tying',
  // What a beginning was made with.
  'loftq_config', 'eva_config', 'corda_config', 'lora_ga_config'
])

/** Reads adapter_config.json, which stands at `path`. Throws AdapterError, naming the setting, for what Midspan does not compute. */
export function parsePeftConfig (raw: Record<string, unknown>, path: string): LoraSettings {
  checkKind(raw, path)
  checkBeginning(raw.init_lora_weights ?? true, path)
  for (const [field, value] of Object.entries(raw)) {
    if (!readSettings.has(field) && isSet(value))
      throw new AdapterError(`${path} sets ${field}, which Midspan does not compute`, 'use a plain LoRA adapter')
  }
  const parsed = configSchema.safeParse(raw)
  if (!parsed.success) {
    const { path: [field], message } = parsed.error.issues[0]!
    const name = String(field)
    if (raw[name] === undefined || raw[name] === null)
      throw new AdapterError(`${path} lacks ${name}`, `add the ${name} that the adapter was trained with`)
    throw new AdapterError(
      `${path}: ${name}: ${message}`,
      name === 'target_modules' ? 'name the target modules in a list' : 'use a LoRA adapter as PEFT writes it'
    )
  }
  const {
    base_model_name_or_path: baseModel,
    r,
    lora_alpha: alpha,
    lora_dropout: dropout,
    target_modules: targets,
    use_rslora: rslora,
    bias,
    modules_to_save: saved
  } = parsed.data
  return {
    baseModel: baseModel ?? null,
    r,
    alpha,
    dropout,
    targets,
    rslora,
    ...bias === 'none' ? {} : { bias },
    ...saved?.length ? { modulesToSave: saved } : {}
  }
}

/** Refuses what is no LoRA adapter of PEFT's. */
function checkKind (raw: Record<string, unknown>, path: string): void {
  if (raw.peft_type === 'LORA') return
  if (typeof raw.peft_type === 'string')
    throw new AdapterError(`${path} sets peft_type to ${raw.peft_type}, and Midspan computes LORA`, 'use a plain LoRA adapter')
  if ('fine_tune_type' in raw || 'lora_parameters' in raw)
    throw new AdapterError(
      `${path} describes an adapter in the format of MLX, not in that of PEFT`,
      'fuse it into its model with mlx_lm.fuse and start from that, or convert it to a PEFT adapter'
    )
  throw new AdapterError(`${path} has no peft_type, so that it describes no PEFT adapter`, 'name a directory that PEFT or Midspan wrote')
}

/** Refuses adapters that belong to another base than the published one, whose weights were changed when training began. */
function checkBeginning (beginning: unknown, path: string): void {
  const name = typeof beginning === 'string' ? beginning : JSON.stringify(beginning)
  if (plainBeginning.test(name)) return
  if (convertibleBeginning.test(name))
    throw new AdapterError(
      `${path} sets init_lora_weights to ${name}: the adapter belongs to a base model whose weights were changed when training began`,
      'save it as plain LoRA with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)'
    )
  throw new AdapterError(
    `${path} sets init_lora_weights to ${name}, which changes the base model or is not known`,
    'merge the adapter into its own base model with PEFT, and start from that'
  )
}

function isSet (value: unknown): boolean {
  if (value === undefined || value === null || value === false) return false
  return typeof value !== 'object' || Object.keys(value).length > 0
}

/**
 * Returns the same settings as every PEFT release since 0.7 takes them: lists sorted, and the scale of a rank-stabilised adapter in its
 * alpha. `use_rslora` came with PEFT 0.8, and a release refuses the whole configuration for a field that it does not know.
 */
export function portableSettings <Settings extends LoraSettings> (settings: Settings): Settings {
  const { r, alpha, rslora, targets, modulesToSave } = settings
  return {
    ...settings,
    alpha: rslora ? alpha * Math.sqrt(r) : alpha,
    rslora: false,
    targets: targets.toSorted(),
    ...modulesToSave === undefined ? {} : { modulesToSave: modulesToSave.toSorted() }
  }
}

/** Writes an adapter_config.json of portable settings: the fields that PEFT 0.7 has too, in the sorted order in which PEFT writes them. */
export function peftConfig ({ baseModel, r, alpha, dropout, targets, bias, modulesToSave }: LoraSettings): Record<string, unknown> {
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
    modules_to_save: modulesToSave ?? null,
    peft_type: 'LORA',
    r,
    rank_pattern: {},
    revision: null,
    target_modules: targets,
    task_type: 'CAUSAL_LM'
  }
}
