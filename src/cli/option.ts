import { boolean, type Parse } from './values.ts'

/** Describes one option of a command. The parser, the help and docs/cli.md are made from this. */
export interface Option<T> {
  /** The word that stands for the value in help, such as `DIR` or `COUNT`. A switch has none. */
  readonly value?: string
  readonly about: string
  readonly parse: Parse<T>
  /** The value where no source gives one. */
  readonly fallback: T
  /** The default as help shows it. Without this, help shows none. */
  readonly shown?: string
  /** The option may be given several times; its value is a list. */
  readonly repeat?: true
  readonly mandatory?: true
  /** The heading of help under which the option stands. */
  readonly group?: string
}

export type AnyOption = Option<unknown>
export type Options = Readonly<Record<string, AnyOption>>
/** The values that a command's handler gets, by the options' names. */
export type ValuesOf<O extends Options> = { readonly [K in keyof O]: O[K] extends Option<infer T> ? T : never }

/** Makes an option that may be left out. */
export function optional<T> (value: string, parse: Parse<T>, about: string, shown?: string): Option<T | undefined> {
  return { value, parse, about, fallback: undefined, ...(shown === undefined ? {} : { shown }) }
}

/** Makes an option with a default, given as text so that help and parser cannot differ. */
export function defaulted<T> (value: string, parse: Parse<T>, fallback: string, about: string): Option<T> {
  return { value, parse, about, fallback: parse(fallback), shown: fallback }
}

/** Makes an option without which the command cannot run. */
export function mandatory<T> (value: string, parse: Parse<T>, about: string): Option<T> {
  // The fallback is never read: a mandatory option without a value is refused before its handler runs.
  return { value, parse, about, fallback: undefined as T, mandatory: true }
}

/** Makes an option that may be given several times. */
export function repeated<T> (value: string, parse: Parse<T>, about: string, shown?: string): Option<readonly T[]> {
  return { value, parse: (text) => [parse(text)], about, fallback: [], repeat: true, ...(shown === undefined ? {} : { shown }) }
}

/** Makes an option without which the command cannot run, and which may be given several times. */
export function mandatoryRepeated<T> (value: string, parse: Parse<T>, about: string): Option<readonly T[]> {
  return { ...repeated(value, parse, about), mandatory: true }
}

/** Makes an option that is on or off. */
export function toggle (about: string): Option<boolean> {
  return { parse: boolean, about, fallback: false }
}

/** Puts options under one heading of the help. */
export function grouped<const O extends Options> (group: string, options: O): O {
  return Object.fromEntries(Object.entries(options).map(([name, option]) => [name, { ...option, group }])) as unknown as O
}

/** Writes a name in kebab case: `roundDeadline` → `round-deadline`. */
export function kebab (name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

/** Names an option's environment variable: `roundDeadline` → `MIDSPAN_ROUND_DEADLINE`. */
export function environmentName (name: string): string {
  return `MIDSPAN_${kebab(name).replaceAll('-', '_').toUpperCase()}`
}

/** Writes an option as it stands on the command line: `--round-deadline DURATION`. */
export function flagText (name: string, option: AnyOption): string {
  return `--${kebab(name)}${option.value === undefined ? '' : ` ${option.value}`}`
}
