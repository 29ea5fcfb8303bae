import { MidspanError } from '../../errors.ts'

/** Thrown for a template that cannot be read. */
export class TaskTemplateError extends MidspanError {
  constructor (message: string) {
    super('E_TASK', message, { next: 'write {field} for a field of the records, {field?} for one that may be absent, and {{ for a brace' })
  }
}

/** A part of a template: text as it stands, or a field of the record. */
type Part = string | { readonly path: readonly string[], readonly name: string, readonly mayBeAbsent: boolean }

/** A text with named fields: `{question}`, `{article.text}` of an object in the record, and `{context?}` where it may be absent. */
export class Template {
  readonly #parts: readonly Part[]

  /** Throws TaskTemplateError. */
  constructor (source: string) {
    const parts: Part[] = []
    let rest = source
    while (rest !== '') {
      const [found, literal, escaped, name] = /^([^{}]+)|^(\{\{|\}\})|^\{([^{}]*)\}/.exec(rest) ?? []
      if (found === undefined) throw new TaskTemplateError(`the template has a single brace before "${rest.slice(0, 20)}"`)
      if (name === undefined) parts.push(literal ?? escaped![0]!)
      else parts.push(fieldOf(name))
      rest = rest.slice(found.length)
    }
    this.#parts = parts
  }

  /** The fields that a record has to have. */
  get needed (): string[] {
    return this.#parts.flatMap((part) => typeof part === 'string' || part.mayBeAbsent ? [] : [part.name])
  }

  /** Writes the template with the fields of a record, without white space around it. Returns a reason where a field is missing. */
  write (record: Readonly<Record<string, unknown>>): { readonly text: string } | { readonly reason: string } {
    const pieces: string[] = []
    for (const part of this.#parts) {
      if (typeof part === 'string') {
        pieces.push(part)
        continue
      }
      const text = textOf(valueAt(record, part.path))
      if (text === undefined && !part.mayBeAbsent) return { reason: `has no field ${part.name}, which the task's prompt names` }
      pieces.push(text ?? '')
    }
    return { text: pieces.join('').trim() }
  }
}

function fieldOf (written: string): Part {
  const mayBeAbsent = written.endsWith('?')
  const name = (mayBeAbsent ? written.slice(0, -1) : written).trim()
  if (name === '') throw new TaskTemplateError('the template has a field without a name')
  return { name, path: name.split('.'), mayBeAbsent }
}

/** Returns what a record has under a name, or under names within each other; undefined where it has nothing. */
export function valueAt (record: unknown, path: readonly string[]): unknown {
  // A column may have a dot in its own name.
  if (path.length > 1 && hasOwn(record, path.join('.'))) return record[path.join('.')]
  let value = record
  for (const name of path) {
    if (!hasOwn(value, name)) return undefined
    value = value[name]
  }
  return value
}

function hasOwn (value: unknown, name: string): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, name)
}

/**
 * Returns a value of a record as text: texts and numbers as they are, lists as lines, of a conversation's turns too. Returns undefined for
 * nothing, and for what is no text.
 */
export function textOf (value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint') return String(value)
  if (!Array.isArray(value)) return undefined
  const lines = value.map(textOf)
  return lines.includes(undefined) ? undefined : lines.join('\n')
}
