import { Command as Parser, CommanderError, Option as ParserOption } from 'commander'
import { UsageError } from '../errors.ts'
import type { Command, Context, Example } from './command.ts'
import { resolveOptions, type Environment, type Flags } from './layers.ts'
import { flagText, type AnyOption } from './option.ts'
import type { Terminal } from './terminal.ts'

/** Help wider than this is hard to read. */
const MAX_HELP_COLUMNS = 110

const DESCRIPTION = `Private fine-tuning and generation with language models that no participant could run alone.
Text, labels and the model's two ends stay with the client; servers carry the middle and see noised, sealed hidden states.`

const FIRST_STEPS = `A first federation:
  midspan init --home s --role server --model llama/ --name stories   # whoever has the model
  midspan daemon --home s --listen /ip4/0.0.0.0/tcp/4001
  midspan invite --home s --expires 24h
  midspan join --home a INVITE                                        # whoever has text
  midspan daemon --home a
  midspan train --home a --data notes.jsonl --rounds 100
  midspan generate --home a --prompt "Once upon a time"`

const PRECEDENCE = `Every option can also be set as MIDSPAN_OPTION_NAME in the environment or as optionName in a --config file:
the command line wins, then the environment, then the file, then the home's config.yaml (what init and join wrote), then the default.`

export interface ProgramInit {
  readonly version: string
  readonly commands: readonly Command[]
  readonly terminal: Terminal
  readonly environment: Environment
  readonly signal: AbortSignal
  /** Called before a command runs, with whether its options ask for stacks of errors. */
  readonly onStart?: (command: Command, debug: boolean) => void
}

/** Returns the names of all options of all commands. */
export function optionNames (commands: readonly Command[]): ReadonlySet<string> {
  return new Set(commands.flatMap(({ options }) => Object.keys(options)))
}

/** Returns the words of an option's line in help: its meaning, then its default. */
export function describeOption (option: AnyOption): string {
  const remarks = [
    ...(option.mandatory === true ? ['required'] : []),
    ...(option.repeat === true ? ['can be repeated'] : []),
    ...(option.shown === undefined ? [] : [`default: ${option.shown}`])
  ]
  return remarks.length === 0 ? option.about : `${option.about} (${remarks.join('; ')})`
}

/** Runs the command that `argv` (without node and script) names. Throws UsageError when it names none. */
export async function runProgram (init: ProgramInit, argv: readonly string[]): Promise<void> {
  const parser = buildParser(init)
  try {
    await parser.parseAsync(argv, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    if (error.exitCode === 0) return // help or version was asked for, and printed
    throw usageOf(error, init.commands.find(({ name }) => name === argv[0]))
  }
}

function usageOf (error: CommanderError, command: Command | undefined): UsageError {
  const help = command === undefined ? 'midspan --help' : `midspan ${command.name} --help`
  if (error.code === 'commander.help') return new UsageError('no command was given', `see: ${help}`)
  return new UsageError(error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' '), `see: ${help}`, error)
}

function buildParser (init: ProgramInit): Parser {
  const { terminal } = init
  const known = optionNames(init.commands)
  const parser = configure(new Parser('midspan'), terminal)
    .description(DESCRIPTION)
    .version(init.version, '--version', 'Print the version')
    .helpOption('--help', 'Print help')
    .helpCommand('help [command]', 'Print the help of a command')
    .usage('COMMAND [options]')
  for (const command of init.commands) {
    parser.addCommand(buildCommand(command, init, known))
  }
  return parser.addHelpText('after', `\n${FIRST_STEPS}\n\n${PRECEDENCE}\n\nA command's own help: midspan COMMAND --help`)
}

function buildCommand (command: Command, { terminal, environment, signal, onStart }: ProgramInit, known: ReadonlySet<string>): Parser {
  const parser = configure(new Parser(command.name), terminal)
    .summary(command.summary)
    .description(command.details === undefined ? command.summary : `${command.summary}.\n\n${command.details}`)
    .helpGroup(`${command.group}:`)
    .addHelpOption(new ParserOption('--help', 'Print help').helpGroup('Common options:'))
  if (command.argument !== undefined) parser.argument(argumentText(command.argument), command.argument.about)
  for (const [name, option] of Object.entries(command.options)) parser.addOption(parserOption(name, option))
  parser.addHelpText('after', `\n${exampleText(command.examples)}`)
  return parser.action(async () => {
    const values = await resolveOptions(command.options, known, parser.opts<Flags>(), environment)
    onStart?.(command, values.debug === true)
    const context: Context = { terminal, argument: parser.args.join(' '), signal }
    signal.throwIfAborted()
    await command.run(values, context)
  })
}

/** Writes an argument as the parser takes it: one that may be left out may also come in several pieces. */
export function argumentText ({ name, optional }: NonNullable<Command['argument']>): string {
  return optional === true ? `[${name}...]` : `<${name}>`
}

function parserOption (name: string, option: AnyOption): ParserOption {
  const flags = flagText(name, option).replace(/ (.+)$/, ' <$1>')
  const parserOption = new ParserOption(flags, describeOption(option)).helpGroup(`${option.group ?? 'Options'}:`)
  // layers.ts reads the environment and the defaults: the parser only collects what was typed.
  return option.value === undefined
    ? parserOption
    : parserOption.argParser((text: string, earlier: readonly string[] = []) => [...earlier, text])
}

function exampleText (examples: readonly Example[]): string {
  const lines = examples.flatMap(({ command, about }) => [`  # ${about}`, `  ${command}`])
  return [examples.length === 1 ? 'Example:' : 'Examples:', ...lines].join('\n')
}

function configure (parser: Parser, terminal: Terminal): Parser {
  return parser
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureHelp({
      helpWidth: Math.min(terminal.columns, MAX_HELP_COLUMNS),
      styleTitle: (title) => terminal.bold(title),
      subcommandTerm: (command) => [
        command.name(),
        ...command.registeredArguments.map((argument) => argument.required ? `<${argument.name()}>` : `[${argument.name()}]`)
      ].join(' ')
    })
    .configureOutput({
      writeOut: (text) => { terminal.write(text) },
      writeErr: () => {}, // main.ts prints the one line
      outputError: () => {}
    })
}
