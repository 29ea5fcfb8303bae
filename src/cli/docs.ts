import { writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import type { OperationSchema } from '../api/operation.ts'
import { operations, type OperationName } from '../api/operations.ts'
import { COMMON_OPTIONS, type Command } from './command.ts'
import { commands } from './commands.ts'
import { EXIT_MEANINGS } from './exit.ts'
import { environmentName, flagText, kebab, type Options } from './option.ts'
import { describeOption } from './program.ts'

export const DOCS_PATH = fileURLToPath(new URL('../../docs/cli.md', import.meta.url))

const INTRODUCTION = `# The command line

Generated from the commands' own option objects by \`npm run docs\`; do not edit.

\`midspan COMMAND --help\` prints the same. A peer's daemon does the work; the other commands talk to it over the control socket in its home,
and say how to start it when there is none.`

const PRECEDENCE = `## Where options come from

The first of these that has an option decides:

1. the command line: \`--round-deadline 60s\`
2. the environment: \`MIDSPAN_ROUND_DEADLINE=60s\`; for an option that can be repeated, values separated by commas
3. the file given with \`--config\` (or \`MIDSPAN_CONFIG\`): YAML, \`roundDeadline: 60s\`; one file may hold the options of several commands, see [config/](../config)
4. \`config.yaml\` in the home, where \`init\` and \`join\` keep what this peer decided for itself
5. the default

An unknown key in a file, or an unknown \`MIDSPAN_\` variable, is an error: a mistyped setting must not be lost silently.

Durations are a number and a unit, \`ms s m h d w\`, up to a limit that each option has; sizes a number and a unit, \`B kB MB GB TB KiB MiB GiB TiB\`. Paths are relative to the working directory.`

const OUTPUT = `## Output

Results go to standard output, progress and remarks to standard error. On a terminal, progress is one line that is redrawn; elsewhere it is plain lines, one every few seconds. There is no colour where
standard output is not a terminal or \`NO_COLOR\` is set. With \`--json\`, standard output holds JSON alone: one object, or for \`train\` one event a line.
Each command below lists the fields. A later release may add fields and events: a program leaves alone what it does not know.

\`daemon\` prints \`Listening on MULTIADDR\` once for each address and then, when others can reach it, \`Daemon is ready\`: programs wait for that line.

A failure is one line on standard error, \`midspan: WHAT AND WHY (WHAT TO DO)\`; with \`--debug\` the stack follows. A failure by a defect of Midspan's in the daemon
stands with its stack in \`daemon.log\` in the home, and the line says so.

A command that talks to servers says within 5 seconds what it waits for, and gives up after \`--timeout\` without anything from them; \`train\` waits on.`

function escape (text: string): string {
  return text.replaceAll('|', '\\|')
}

function optionTable (options: Options): string {
  const rows = Object.entries(options).map(([name, option]) =>
    `| \`${flagText(name, option)}\` | \`${environmentName(name)}\` | \`${name}\` | ${escape(describeOption(option))} |`)
  return ['| option | environment | in a file | meaning |', '|---|---|---|---|', ...rows].join('\n')
}

function commandSection ({ name, summary, details, argument, operation, otherOperation, options, examples }: Command): string {
  const own = Object.fromEntries(Object.entries(options).filter(([key]) => !(key in COMMON_OPTIONS)))
  return [
    `### midspan ${name}${argument === undefined ? '' : argument.optional === true ? ` [${argument.name}]` : ` <${argument.name}>`}`,
    `${summary}.${details === undefined ? '' : ` ${details.replaceAll('\n', ' ')}`}`,
    ...(argument === undefined ? [] : [`\`${argument.name}\`: ${argument.about}.`]),
    optionTable(own),
    ['```sh', ...examples.flatMap(({ command, about }) => [`# ${about}`, command]), '```'].join('\n'),
    ...(operation === undefined ? [] : outputSections(operation, '--json')),
    ...(otherOperation === undefined ? [] : outputSections(otherOperation.name, `--${kebab(otherOperation.option)} --json`))
  ].join('\n\n')
}

/** Operations whose events a command prints one by one. Of the others it prints the result alone. */
const STREAMED: readonly OperationName[] = ['train', 'preview']

/** Documents what a command prints as JSON: the result, and each event before it where the command prints these. */
function outputSections (name: OperationName, flags: string): readonly string[] {
  const { progress, result }: OperationSchema = operations[name]
  if (!STREAMED.includes(name)) return [`With \`${flags}\` it prints one object:`, fieldTable(result, ['type'])]
  const events = [...Object.values(progress), result]
  return events.flatMap((event) => [`With \`${flags}\`, an event \`${typeName(event)}\`:`, fieldTable(event, [])])
}

function typeName (event: z.ZodObject): string {
  return String((event.shape.type as z.ZodLiteral).value)
}

interface JsonSchema {
  readonly type?: string
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly anyOf?: readonly JsonSchema[]
  readonly items?: JsonSchema
  readonly properties?: Readonly<Record<string, JsonSchema>>
  readonly required?: readonly string[]
  readonly description?: string
}

function fieldTable (event: z.ZodObject, leftOut: readonly string[]): string {
  const rows = fieldRows(z.toJSONSchema(event) as JsonSchema, '').filter(({ path }) => !leftOut.includes(path))
  return [
    '| field | type | meaning |',
    '|---|---|---|',
    ...rows.map(({ path, type, about }) => `| \`${path}\` | ${escape(type)} | ${escape(about)} |`)
  ].join('\n')
}

interface FieldRow {
  readonly path: string
  readonly type: string
  readonly about: string
}

/** Returns one row a field, with the fields of inner objects and lists. */
function fieldRows ({ properties = {}, required = [] }: JsonSchema, prefix: string): readonly FieldRow[] {
  return Object.entries(properties).flatMap(([name, field]) => {
    const type = `${typeText(field)}${required.includes(name) ? '' : ', may be absent'}`
    const path = `${prefix}${name}`
    const inner = [field, ...field.anyOf ?? []].map(({ items, ...own }) =>
      items === undefined ? { of: own, suffix: '' } : { of: items, suffix: '[]' }
    )
    return [
      { path, type, about: field.description ?? '' },
      ...inner.flatMap(({ of, suffix }) => fieldRows(of, `${path}${suffix}.`))
    ]
  })
}

function typeText ({ type, const: constant, enum: choices, anyOf, items }: JsonSchema): string {
  if (constant !== undefined) return JSON.stringify(constant)
  if (choices !== undefined) return choices.map((choice) => JSON.stringify(choice)).join(' or ')
  if (anyOf !== undefined) return anyOf.map(typeText).join(' or ')
  if (type === 'array') return `list${items?.type === undefined ? '' : ` of ${items.type}s`}`
  return type ?? 'any'
}

/** Returns the text of docs/cli.md. */
export function renderDocs (): string {
  const exits = EXIT_MEANINGS.map(({ code, meaning, script }) => `| ${code} | ${meaning} | ${script} |`)
  return [
    INTRODUCTION,
    PRECEDENCE,
    OUTPUT,
    ['## Exit codes', ['| code | meaning | what a script does |', '|---|---|---|', ...exits].join('\n')].join('\n\n'),
    ['## Options of every command', optionTable(COMMON_OPTIONS)].join('\n\n'),
    '## Commands',
    ...commands.map(commandSection)
  ].join('\n\n') + '\n'
}

if (import.meta.main) await writeFile(DOCS_PATH, renderDocs())
