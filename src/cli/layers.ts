import { readFile, stat } from 'node:fs/promises'
import { parse as parseYaml } from 'yaml'
import { MidspanError, UsageError } from '../errors.ts'
import { environmentName, kebab, type AnyOption, type Options } from './option.ts'

/** The texts that the command line gave, in order, by option name; true for a switch. */
export type Flags = Readonly<Record<string, readonly string[] | true>>
export type Environment = Readonly<Record<string, string | undefined>>

/** The texts that one source gives for an option, and how to name the source in a message. */
interface Given {
  readonly texts: readonly string[]
  readonly source: string
}

/** The permission of everybody to write (chmod(2)). */
const WRITABLE_BY_ALL = 0o002

const PREFIX = 'MIDSPAN_'

/** Variables of the project's own tests, such as MIDSPAN_TEST_DATA, may stand in the environment of a command. */
const TEST_PREFIX = 'MIDSPAN_TEST_'

/** A file of options is read whole: nobody writes a longer one by hand. */
const MAX_CONFIG_BYTES = 1024 * 1024

/**
 * Resolves the values of a command's options: the command line first, then the environment, then the file given with --config, then the
 * default. `known` are the names of all options of all commands: one file, or one environment, serves them all.
 * Throws UsageError that names the source of the first text that cannot be used.
 */
export async function resolveOptions (
  options: Options,
  known: ReadonlySet<string>,
  flags: Flags,
  environment: Environment
): Promise<Record<string, unknown>> {
  refuseUnknownVariables(known, environment)
  const configPath = first(options, 'config', flags, environment, {}, '')
  const file = typeof configPath === 'string' ? await readOptionsFile(configPath, known) : {}
  return Object.fromEntries(Object.keys(options).map((name) => [name, first(options, name, flags, environment, file, String(configPath))]))
}

function first (
  options: Options,
  name: string,
  flags: Flags,
  environment: Environment,
  file: Record<string, readonly string[]>,
  configPath: string
): unknown {
  const option = options[name]
  if (option === undefined) return undefined
  const given = fromFlags(name, flags) ?? fromEnvironment(name, option, environment) ?? fromFile(name, option, file, configPath)
  if (given !== undefined) return valueOf(option, given)
  if (option.mandatory === true)
    throw new UsageError(`--${kebab(name)} is missing`, `give --${kebab(name)} ${option.value ?? ''}, or set ${environmentName(name)}`)
  return option.fallback
}

function fromFlags (name: string, flags: Flags): Given | undefined {
  const flag = flags[name]
  if (flag === undefined) return undefined
  return { texts: flag === true ? ['true'] : flag, source: `--${kebab(name)}` }
}

function fromEnvironment (name: string, option: AnyOption, environment: Environment): Given | undefined {
  const text = environment[environmentName(name)]
  if (text === undefined || text === '') return undefined
  return { texts: option.repeat === true ? text.split(',').map((item) => item.trim()) : [text], source: environmentName(name) }
}

function fromFile (name: string, option: AnyOption, file: Record<string, readonly string[]>, configPath: string): Given | undefined {
  const texts = Object.hasOwn(file, name) ? file[name] : undefined
  if (texts === undefined) return undefined
  // A list in the file is several values for an option that repeats, and one comma-separated value for any other.
  return { texts: option.repeat === true ? texts : [texts.join(',')], source: `${configPath}: ${name}` }
}

function valueOf (option: AnyOption, { texts, source }: Given): unknown {
  const values = texts.map((text) => {
    try {
      return option.parse(text)
    } catch (error) {
      if (!(error instanceof MidspanError)) throw error
      throw new UsageError(
        `${source} '${text}' ${error.message}`,
        error.next ?? option.about.charAt(0).toLowerCase() + option.about.slice(1),
        error
      )
    }
  })
  return option.repeat === true ? values.flat() : values.at(-1)
}

function refuseUnknownVariables (known: ReadonlySet<string>, environment: Environment): void {
  const names = new Set([...known].map(environmentName))
  const unknown = Object.keys(environment).find((variable) =>
    variable.startsWith(PREFIX) && !variable.startsWith(TEST_PREFIX) && !names.has(variable)
  )
  if (unknown !== undefined)
    throw new UsageError(
      `the environment variable ${unknown} is not an option of any command`,
      `unset it${nearest(unknown, names, PREFIX.length)}`
    )
}

/** Reads a YAML file of options: texts by option name. Throws UsageError when it cannot be read or has a key that is no option. */
async function readOptionsFile (path: string, known: ReadonlySet<string>): Promise<Record<string, readonly string[]>> {
  const value = parseFile(path, await readText(path)) ?? {}
  if (typeof value !== 'object' || Array.isArray(value))
    throw new UsageError(`${path} is not a list of options`, 'write one `option: value` a line; config/ has examples')
  return Object.fromEntries(
    Object.entries(value).map(([key, entry]: [string, unknown]) => {
      if (!known.has(key) || key === 'config')
        throw new UsageError(`${path}: ${key} is not an option of any command`, `remove it${nearest(key, known)}`)
      return [key, textsOf(path, key, entry)]
    })
  )
}

async function readText (path: string): Promise<string> {
  try {
    const bytes = await readFile(path)
    if (process.platform !== 'win32' && ((await stat(path)).mode & WRITABLE_BY_ALL) !== 0)
      throw new UsageError(`every user of this machine can write to ${path}`, `check what it says, then chmod o-w ${path}`)
    if (bytes.byteLength > MAX_CONFIG_BYTES)
      throw new UsageError(`${path} is ${bytes.byteLength} bytes, more than ${MAX_CONFIG_BYTES}`, 'check the path given with --config')
    return new TextDecoder().decode(bytes)
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`the file ${path} cannot be read: ${(error as Error).message}`, 'check the path given with --config', error)
  }
}

function parseFile (path: string, text: string): unknown {
  try {
    return parseYaml(text)
  } catch (error) {
    throw new UsageError(`${path} is not YAML: ${(error as Error).message.split('\n')[0]}`, 'correct the file', error)
  }
}

function textsOf (path: string, key: string, entry: unknown): readonly string[] {
  const items: unknown[] = Array.isArray(entry) ? entry : [entry]
  return items.map((item) => {
    if (typeof item === 'string' || typeof item === 'number' || typeof item === 'boolean') return String(item)
    throw new UsageError(`${path}: ${key} is not text, a number, true or false, or a list of them`, 'correct the value')
  })
}

/**
 * Returns ", or write X" for the known name that is nearest to a mistyped one. Returns an empty text where less than two thirds of what
 * follows the prefix are right.
 */
function nearest (name: string, known: Iterable<string>, prefixLength = 0): string {
  const near = [...known].map((other) => ({ other, distance: editDistance(name, other) })).sort((a, b) => a.distance - b.distance)[0]
  return near === undefined || near.distance > (name.length - prefixLength) / 3 ? '' : `, or write ${near.other}`
}

/** Computes Levenshtein's distance, row by row. */
function editDistance (a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(substituted, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
