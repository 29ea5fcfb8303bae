import { homedir } from 'node:os'
import { join } from 'node:path'
import { grouped, optional, toggle, type Option, type Options, type ValuesOf } from './option.ts'
import type { Terminal } from './terminal.ts'
import { path } from './values.ts'

const home: Option<string> = {
  value: 'DIR',
  parse: path,
  fallback: join(homedir(), '.midspan'),
  shown: '~/.midspan',
  about: 'Where this peer keeps its identity, charter, weights and checkpoints'
}

/** Options that every command has. */
export const COMMON_OPTIONS = grouped('Common options', {
  home,
  config: optional('FILE', path, 'A YAML file of options; see config/ for examples'),
  debug: toggle('Show stacks of errors')
})

/** What a handler gets besides its values. */
export interface Context {
  readonly terminal: Terminal
  /** The positional argument, or empty where the command has none. */
  readonly argument: string
  /** Aborts when the process is told to stop. */
  readonly signal: AbortSignal
}

export interface Example {
  readonly command: string
  readonly about: string
}

/** A command as data, with its handler. */
export interface Definition<O extends Options> {
  readonly name: string
  /** The heading it stands under in `midspan --help`. */
  readonly group: string
  readonly summary: string
  /** Paragraphs under the summary in its own help. */
  readonly details?: string
  readonly argument?: { readonly name: string, readonly about: string }
  readonly options: O
  readonly examples: readonly Example[]
  readonly run: (values: ValuesOf<O & typeof COMMON_OPTIONS>, context: Context) => Promise<void>
}

/** A command of any options, as the program lists them. */
export interface Command extends Omit<Definition<Options>, 'run'> {
  readonly run: (values: Readonly<Record<string, unknown>>, context: Context) => Promise<void>
}

export function command<const O extends Options> (definition: Definition<O>): Command {
  const { run, ...rest } = definition
  return {
    ...rest,
    options: { ...definition.options, ...COMMON_OPTIONS },
    // The values are made from these very options (layers.ts), key by key.
    run: async (values, context) => { await run(values as ValuesOf<O & typeof COMMON_OPTIONS>, context) }
  }
}
