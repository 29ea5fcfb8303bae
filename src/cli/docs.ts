import { writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { COMMON_OPTIONS, type Command } from './command.ts'
import { commands } from './commands.ts'
import { EXIT_MEANINGS } from './exit.ts'
import { environmentName, flagText, type Options } from './option.ts'
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

Durations are a number and a unit, \`ms s m h d w\`; sizes a number and a unit, \`B kB MB GB TB KiB MiB GiB TiB\`. Paths are relative to the working directory.`

const OUTPUT = `## Output

Results go to standard output, progress and remarks to standard error. On a terminal, progress is one line that is redrawn; elsewhere it is plain lines. There is no colour where
standard output is not a terminal or \`NO_COLOR\` is set. With \`--json\`, standard output holds JSON alone: one object, or for \`train\` one event a line.

\`daemon\` prints \`Listening on MULTIADDR\` once for each address and then, when others can reach it, \`Daemon is ready\`: programs wait for that line.

A failure is one line on standard error, \`midspan: WHAT AND WHY (WHAT TO DO)\`; with \`--debug\` the stack follows.`

function escape (text: string): string {
  return text.replaceAll('|', '\\|')
}

function optionTable (options: Options): string {
  const rows = Object.entries(options).map(([name, option]) =>
    `| \`${flagText(name, option)}\` | \`${environmentName(name)}\` | \`${name}\` | ${escape(describeOption(option))} |`)
  return ['| option | environment | in a file | meaning |', '|---|---|---|---|', ...rows].join('\n')
}

function commandSection ({ name, summary, details, argument, options, examples }: Command): string {
  const own = Object.fromEntries(Object.entries(options).filter(([key]) => !(key in COMMON_OPTIONS)))
  return [
    `### midspan ${name}${argument === undefined ? '' : ` <${argument.name}>`}`,
    `${summary}.${details === undefined ? '' : ` ${details.replaceAll('\n', ' ')}`}`,
    ...(argument === undefined ? [] : [`\`<${argument.name}>\`: ${argument.about}.`]),
    optionTable(own),
    ['```sh', ...examples.flatMap(({ command, about }) => [`# ${about}`, command]), '```'].join('\n')
  ].join('\n\n')
}

/** docs/cli.md. */
export function renderDocs (): string {
  const exits = EXIT_MEANINGS.map(([code, meaning]) => `| ${code} | ${meaning} |`)
  return [
    INTRODUCTION,
    PRECEDENCE,
    OUTPUT,
    ['## Exit codes', ['| code | meaning |', '|---|---|', ...exits].join('\n')].join('\n\n'),
    ['## Options of every command', optionTable(COMMON_OPTIONS)].join('\n\n'),
    '## Commands',
    ...commands.map(commandSection)
  ].join('\n\n') + '\n'
}

if (import.meta.main) await writeFile(DOCS_PATH, renderDocs())
