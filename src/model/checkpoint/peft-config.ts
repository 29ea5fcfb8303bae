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

/** What the update B·A is multiplied by. */
export function loraScale ({ r, alpha, rslora }: Pick<LoraSettings, 'r' | 'alpha' | 'rslora'>): number {
  return alpha / (rslora ? Math.sqrt(r) : r)
}

const configSchema = z.object({
  peft_type: z.literal('LORA'),
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number().positive(),
  lora_dropout: z.number().min(0).max(1).default(0),
  target_modules: z.array(z.string().min(1)).min(1),
  use_rslora: z.boolean().default(false),
  bias: z.enum(['none', 'all', 'lora_only']).default('none'),
  modules_to_save: z.array(z.string().min(1)).nullish()
})

/** Settings that change what an adapter computes or holds, each with the values that mean "not used". */
const unsupported: Readonly<Record<string, readonly unknown[]>> = {
  use_dora: [false], fan_in_fan_out: [false], lora_bias: [false], use_qalora: [false],
  rank_pattern: [], alpha_pattern: [], layer_replication: [], trainable_token_indices: [], target_parameters: [],
  alora_invocation_tokens: [], megatron_config: [], layers_to_transform: [], exclude_modules: []
}

/** Reads adapter_config.json, which stands at `path`. Throws AdapterError, naming the setting, for what Midspan does not compute. */
export function parsePeftConfig (raw: Record<string, unknown>, path: string): LoraSettings {
  for (const [field, unused] of Object.entries(unsupported)) {
    const value = raw[field]
    const empty = value === undefined || value === null || (typeof value === 'object' && Object.keys(value).length === 0)
    if (!empty && !unused.includes(value))
      throw new AdapterError(`${path} sets ${field}, which Midspan does not compute`, 'use a plain LoRA adapter')
  }
  const parsed = configSchema.safeParse(raw)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw new AdapterError(`${path}: ${issue.path.join('.')}: ${issue.message}`, 'use a LoRA adapter whose target_modules is a list')
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

/**
 * The same settings as every PEFT release since 0.7 takes them: lists sorted, and the scale of a rank-stabilised adapter in its alpha,
 * because
 * `use_rslora` came with 0.8 and a release refuses the whole configuration for a field that it does not know.
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

/** adapter_config.json of portable settings: the fields that PEFT 0.7 has too, in the sorted order in which PEFT writes them. */
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
