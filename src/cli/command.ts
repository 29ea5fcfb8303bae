import { homedir } from 'node:os'
import { join } from 'node:path'
import type { OperationName } from '../api/operations.ts'
import { homeAt } from '../node/home/home.ts'
import { checkHome } from '../node/home/open-to-others.ts'
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

/** The surroundings of a handler: all that it gets besides its values. */
export interface Context {
  readonly terminal: Terminal
  /** The positional argument, or empty where there is none. */
  readonly argument: string
  /** Aborts when the process is told to stop. */
  readonly signal: AbortSignal
}

export interface Example {
  readonly command: string
  readonly about: string
}

/** Describes a command, with its handler. */
export interface Definition<O extends Options> {
  readonly name: string
  /** The heading of `midspan --help` under which the command stands. */
  readonly group: string
  readonly summary: string
  /** Paragraphs under the summary in the command's own help. */
  readonly details?: string
  readonly argument?: { readonly name: string, readonly about: string, readonly optional?: true }
  /** The operation of the daemon whose answer the command prints with --json. */
  readonly operation?: OperationName
  /** The operation whose answer it prints instead where an option is given. */
  readonly otherOperation?: { readonly option: string, readonly name: OperationName }
  /** What the command does when whoever reads its output goes away; without a word, it is done. */
  readonly withoutReader?: 'goes on' | 'stops'
  readonly options: O
  readonly examples: readonly Example[]
  readonly run: (values: ValuesOf<O & typeof COMMON_OPTIONS>, context: Context) => Promise<void>
}

/** A command of any options, as the program lists them. */
export interface Command extends Omit<Definition<Options>, 'run'> {
  readonly run: (values: Readonly<Record<string, unknown>>, context: Context) => Promise<void>
}

/** Makes a command with the common options of a definition without them. Its home is checked before it runs. */
export function command<const O extends Options> (definition: Definition<O>): Command {
  const { run, ...rest } = definition
  return {
    ...rest,
    options: { ...definition.options, ...COMMON_OPTIONS },
    // The values are made from these very options (layers.ts), key by key.
    run: async (values, context) => {
      const own = values as ValuesOf<O & typeof COMMON_OPTIONS>
      await checkHome(homeAt(own.home as string))
      await run(own, context)
    }
  }
}
