import { multiaddr } from '@multiformats/multiaddr'
import { parse as parseYaml, stringify as stringifyYaml } from 'yaml'
import { z } from 'zod'
import { UsageError } from '../../errors.ts'
import { isQuantized, weightFormats } from '../../model/layers/weight-format.ts'
import { computeTypes } from '../../model/runtime/device.ts'
import { residualSettings } from '../../model/training/activation-checkpointing.ts'
import { peerIdSchema } from '../../protocols/charter/schema.ts'
import { parseSpan } from '../../span.ts'
import { parseHttpAddress } from '../http/address.ts'
import { readIfPresent, replaceFile, type Home } from './home.ts'

const address = z.string().refine(isMultiaddr, 'is not a multiaddr, such as /ip4/127.0.0.1/tcp/4001')
const scale = z.number().min(0).max(1000)

/**
 * Everything a peer decides for itself; what its federation decides is in the charter. Each can be an option of `midspan daemon` in one of
 * its forms, or a key of the home's config.yaml, which `init` and `join` write.
 */
const settingsSchema = z.strictObject({
  /** What this peer is: written by `init` and `join`. */
  role: z.enum(['server', 'client']).optional(),
  /** A server's Hugging Face model directory; a worker's is in its home unless given. */
  model: z.string().min(1).optional(),
  /** A server's blocks, `FIRST-END`: the first one and the one after the last. All that it can serve unless given. */
  blocks: z.string().refine((text) => parseSpan(text) !== undefined, 'is not a span such as 4-12: the first block and the one after the last')
    .optional(),
  /** Bytes of device memory that a server may fill with blocks that it chooses by itself; it stays with `blocks` unless given. */
  memory: z.int().min(1).optional(),
  /** A server that leads: milliseconds that a block is without a server before one that chose its blocks by itself moves there. */
  moveAfterMs: z.int().min(0).max(86_400_000).optional(),
  /** Multiaddrs to listen on. */
  listen: z.array(address).max(16).optional(),
  /** Multiaddrs to tell others instead of those listened on: a forwarded port, a public name. */
  announce: z.array(address).max(16).optional(),
  /** Peer ids that a server admits without an invite. */
  allow: z.array(peerIdSchema).max(10_000).optional(),
  /** Blocks of the client's input span. */
  inputBlocks: z.int().min(0).optional(),
  /** Blocks of the client's output span. */
  outputBlocks: z.int().min(0).optional(),
  /** Noise on hidden states, relative to the clip; the charter's floor unless given. */
  noise: scale.optional(),
  /** Noise on gradients, relative to the clip; the charter's floor unless given. */
  gradientNoise: scale.optional(),
  /** A client: whether its residual stream stays with it; where noise or a clip changes what leaves, unless given. */
  keepStream: z.boolean().optional(),
  /** A client: the share of generated texts whose servers are checked, each of which another server then sees too. */
  verify: z.number().min(0).max(1).optional(),
  /** Where a client serves the OpenAI-compatible API, `HOST:PORT`; nowhere unless given. */
  http: z.string().refine((text) => parseHttpAddress(text) !== undefined, 'is not an address such as 127.0.0.1:4010').optional(),
  /** Names that requests may have for the HTTP server besides localhost and IP addresses. */
  httpHosts: z.array(z.string().min(1).max(253)).max(16).optional(),
  /** What computes; `auto` takes a GPU that is faster than the CPU. */
  device: z.enum(['auto', 'cpu', 'webgpu', 'cuda']).optional(),
  /** Threads of the device; the machine's cores unless given. */
  threads: z.int().min(1).max(1024).optional(),
  /** What the device keeps this peer's frozen matrices as. */
  weights: z.enum(weightFormats).optional(),
  /** What products with frozen weights of blocks are computed in. */
  compute: z.enum(computeTypes).optional(),
  /** Whether training keeps what its way back needs, or computes it again. */
  residuals: z.enum(residualSettings).optional(),
  /** Bytes that `residuals: auto` lets one pass keep. */
  residualBytes: z.int().min(1).optional(),
  /** Connections this peer holds at most. */
  maxConnections: z.int().min(2).max(10_000).optional(),
  logLevel: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).optional()
})

/** Settings as one source gives them: any may be absent. */
export type PartialSettings = z.infer<typeof settingsSchema>

/** Settings with their defaults. What is still optional depends on the role or the charter. */
export type Settings = Omit<PartialSettings, Defaulted> & { readonly [Key in Defaulted]-?: NonNullable<PartialSettings[Key]> }

type Defaulted =
  'verify' | 'moveAfterMs' | 'device' | 'compute' | 'weights' | 'residuals' | 'maxConnections' | 'logLevel' | 'announce' | 'allow' | 'httpHosts'

const defaults = {
  /** A check shows another server what a client released: that is the client's to decide. */
  verify: 0,
  /** A server that restarts is back within a minute. */
  moveAfterMs: 60_000,
  device: 'auto',
  weights: 'fp32',
  compute: 'fp32',
  residuals: 'saved',
  /** A server of a few hundred clients; libp2p's own default. */
  maxConnections: 300,
  logLevel: 'info'
} as const

/**
 * Returns the settings of a home: what `given` names, from the command line, the environment or a file of options, comes before the home's
 * config.yaml, and the defaults last. Throws UsageError naming the key of the first that is wrong.
 */
export async function loadSettings (home: Home, given: Readonly<Record<string, unknown>> = {}): Promise<Settings> {
  const present = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  const settings = { ...defaults, announce: [], allow: [], httpHosts: [], ...await readConfig(home.config), ...checkSettings(present, 'the options') } as Settings // no source holds undefined
  checkProducts(settings)
  return settings
}

/** Throws UsageError for weights in blocks of codes of which int8 products, which have codes of their own, would make nothing. */
function checkProducts ({ compute, weights }: Settings): void {
  if (compute === 'int8' && isQuantized(weights))
    throw new UsageError(
      `weights in ${weights} are not computed in int8: such products keep 8 bits of each weight in an order of their own`,
      'leave the weights at fp32 or fp16, or compute in fp32'
    )
}

/** Returns the settings in a YAML file; none where the file is absent. */
export async function readConfig (path: string): Promise<PartialSettings> {
  const bytes = await readIfPresent(path)
  if (bytes === undefined) return {}
  let value: unknown
  try {
    value = parseYaml(new TextDecoder().decode(bytes))
  } catch (error) {
    throw new UsageError(`${path} is not YAML: ${(error as Error).message.split('\n')[0]}`, 'correct the file', error)
  }
  return checkSettings(value ?? {}, path)
}

/** Writes a home's config.yaml, merged over what it has; a key with the value undefined is removed. */
export async function updateConfig (
  home: Home,
  changes: { readonly [Key in keyof PartialSettings]?: PartialSettings[Key] | undefined }
): Promise<void> {
  const merged = { ...await readConfig(home.config), ...changes }
  const kept = Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== undefined))
  await replaceFile(home.config, stringifyYaml(checkSettings(kept, home.config)))
}

/** Checks values against the schema. Throws UsageError that names the source and the key. */
function checkSettings (value: unknown, source: string): PartialSettings {
  const result = settingsSchema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  if (issue?.code === 'unrecognized_keys') {
    throw new UsageError(`${source}: ${issue.keys[0]} is not a setting`, `the settings are ${Object.keys(settingsSchema.shape).join(', ')}`)
  }
  const path = issue?.path.join('.') ?? ''
  throw new UsageError(`${source}: ${path === '' ? 'the settings' : path}: ${issue?.message ?? 'cannot be read'}`, 'correct the value')
}

function isMultiaddr (text: string): boolean {
  try {
    multiaddr(text)
    return true
  } catch {
    return false
  }
}
