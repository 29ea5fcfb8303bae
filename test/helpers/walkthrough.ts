import { readFile } from 'node:fs/promises'

/** One line that somebody types on one machine. */
export interface Typed {
  readonly machine: string
  /** Words of a command, its name left out; undefined for Ctrl-C in the terminal of the daemon. */
  readonly words: readonly string[] | undefined
  /** Whether the next command is typed before this one has ended. */
  readonly inBackground: boolean
}

export interface Walkthrough {
  /** The addresses of the machines, by name. */
  readonly machines: ReadonlyMap<string, string>
  readonly lines: readonly Typed[]
}

/** Reads what a section of a page has people type, in order, and the addresses of their machines. */
export async function readWalkthrough (path: string, heading: string): Promise<Walkthrough> {
  const section = (await readFile(path, 'utf8')).split(/^## /m).find((text) => text.startsWith(`${heading}\n`))
  if (section === undefined) throw new Error(`${path} has no section ${heading}`)
  const machines = new Map([...section.matchAll(/^\| `(\w+)` \| ([\d.]+) \|/gm)].map(([, name = '', address = '']) => [name, address]))
  const lines = [...section.matchAll(/^```sh (\w+)\n([^]*?)^```$/gm)].flatMap(([, machine = '', text = '']) =>
    text.trim().split('\n').map((line) => typed(machine, line)))
  return { machines, lines }
}

function typed (machine: string, line: string): Typed {
  if (line === '^C') return { machine, words: undefined, inBackground: false }
  const words = [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, bare]) => quoted ?? bare ?? '')
  const inBackground = words.at(-1) === '&'
  if (words[0] !== 'midspan') throw new Error(`a walk-through types: ${line}`)
  return { machine, words: words.slice(1, inBackground ? -1 : undefined), inBackground }
}
