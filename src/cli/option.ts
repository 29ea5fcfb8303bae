import { boolean, type Parse } from './values.ts'

/** One option of a command, as data: the parser, the help and docs/cli.md are all made from it. */
export interface Option<T> {
  /** What stands for the value in help, with its unit: `DIR`, `COUNT`. Absent for a switch. */
  readonly value?: string
  readonly about: string
  readonly parse: Parse<T>
  /** The value when nothing gives one. */
  readonly fallback: T
  /** How the default reads in help; none is shown where absent. */
  readonly shown?: string
  /** The option may be given several times; its value is a list. */
  readonly repeat?: true
  readonly mandatory?: true
  /** The heading it stands under in help. */
  readonly group?: string
}

export type AnyOption = Option<unknown>
export type Options = Readonly<Record<string, AnyOption>>
/** The values that a command's handler gets: a key an option. */
export type ValuesOf<O extends Options> = { readonly [K in keyof O]: O[K] extends Option<infer T> ? T : never }

/** An option that may be left out. */
export function optional<T> (value: string, parse: Parse<T>, about: string, shown?: string): Option<T | undefined> {
  return { value, parse, about, fallback: undefined, ...(shown === undefined ? {} : { shown }) }
}

/** An option with a default, given as text so that help and parser cannot differ. */
export function defaulted<T> (value: string, parse: Parse<T>, fallback: string, about: string): Option<T> {
  return { value, parse, about, fallback: parse(fallback), shown: fallback }
}

/** An option without which the command cannot run. */
export function mandatory<T> (value: string, parse: Parse<T>, about: string): Option<T> {
  // The fallback is never read: a mandatory option without a value is refused before its handler runs.
  return { value, parse, about, fallback: undefined as T, mandatory: true }
}

/** An option that may be given several times. */
export function repeated<T> (value: string, parse: Parse<T>, about: string, shown?: string): Option<readonly T[]> {
  return { value, parse: (text) => [parse(text)], about, fallback: [], repeat: true, ...(shown === undefined ? {} : { shown }) }
}

/** An option that is on or off. */
export function toggle (about: string): Option<boolean> {
  return { parse: boolean, about, fallback: false }
}

/** Puts options under one heading of the help. */
export function grouped<const O extends Options> (group: string, options: O): O {
  return Object.fromEntries(Object.entries(options).map(([name, option]) => [name, { ...option, group }])) as unknown as O
}

/** `roundDeadline` → `round-deadline`. */
export function kebab (name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

/** `roundDeadline` → `MIDSPAN_ROUND_DEADLINE`. */
export function environmentName (name: string): string {
  return `MIDSPAN_${kebab(name).replaceAll('-', '_').toUpperCase()}`
}

/** How the option is written on the command line: `--round-deadline DURATION`. */
export function flagText (name: string, option: AnyOption): string {
  return `--${kebab(name)}${option.value === undefined ? '' : ` ${option.value}`}`
}
