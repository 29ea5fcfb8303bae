import { createReadStream } from 'node:fs'
import { readdir, realpath, stat } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { createGunzip } from 'node:zlib'
import { DatasetError } from './errors.ts'
import { checkFile, isUtf8, MAX_LINE_BYTES, NOT_UTF8, readLines, readText, TOO_LONG } from './lines.ts'
import { looksLikeRecord, recordOf, type Columns, type DataRecord, type Refused } from './records.ts'

/** Longer plain-text documents are cut at line ends: a tokenizer takes a document in one go, about half a second for this many. */
const MAX_DOCUMENT_CHARACTERS = 64 * 1024

/** A JSON file that is one object, such as `{"data": [...]}`, is read whole up to this size. */
const MAX_OBJECT_CHARACTERS = 256 * 1024 * 1024

/** A row group of a Parquet file is read at once up to this size: each part of a larger one is unpacked with all that stands before it. */
const MAX_ROW_GROUP_BYTES = 256 * 1024 * 1024

/** Rows of a larger row group that are in memory at a time. */
const PARQUET_ROWS = 1024

/** What a decoder writes for bytes that are not UTF-8. */
const REPLACEMENT = '\ufffd'

/** The extensions, without `.gz`, of the files that are read in a directory. */
const extensions = ['.txt', '.jsonl', '.ndjson', '.json', '.csv', '.tsv', '.parquet']

export interface ReadingOptions {
  /** Whether an instruction becomes a conversation rather than plain text. */
  readonly chatInstructions: boolean
  readonly columns?: Columns | undefined
}

/** How the values of files become records. */
export interface RecordReader<Read> {
  /** Reads an object of JSON, or a row of a table. */
  readonly ofValue: (value: unknown) => Read | Refused
  /** Reads a document of plain text. */
  readonly ofText: (text: string) => Read | Refused
}

export type Found<Read> = { readonly line: number, readonly file?: string } & ({ readonly record: Read } | Refused)

export type FoundRecord = Found<DataRecord>

/** A value of a file before its shape is known. */
type FoundValue = { readonly line: number } & ({ readonly value: unknown } | { readonly reason: string })

/** Returns how records are read as docs/data.md says. */
export function recordReader ({ chatInstructions, columns }: ReadingOptions): RecordReader<DataRecord> {
  return { ofValue: (value) => recordOf(value, chatInstructions, columns), ofText: (text) => ({ kind: 'text', text }) }
}

/** Reads the records of files and directories in the formats of docs/data.md. Throws as `readEach` does. */
export function readRecords (paths: readonly string[], options: ReadingOptions, signal?: AbortSignal): AsyncGenerator<FoundRecord> {
  return readEach(paths, recordReader(options), signal)
}

/**
 * Reads the values of files and directories with a reader of one's own, each with its line, or with its row where a format has rows.
 * Throws DatasetError for what cannot be read.
 */
export async function * readEach<Read extends object> (
  paths: readonly string[],
  reader: RecordReader<Read>,
  signal?: AbortSignal
): AsyncGenerator<Found<Read>> {
  const files = (await Promise.all(paths.map(filesOf))).flat()
  await checkDistinct(files)
  for (const file of files) {
    const named = files.length > 1 ? { file } : {}
    const extension = extensionOf(file)
    if (extension === '.txt') {
      for await (const found of readDocuments(file, signal))
        yield { ...named, line: found.line, ...asFound('reason' in found ? found : reader.ofText(found.text)) }
      continue
    }
    for await (const found of readValues(file, extension, signal))
      yield { ...named, line: found.line, ...asFound('reason' in found ? found : reader.ofValue(found.value)) }
  }
}

/** Throws DatasetError where two names are those of one file, whose records would count twice. */
async function checkDistinct (files: readonly string[]): Promise<void> {
  const names = new Map<string, string>()
  for (const file of files) {
    const real = await realpath(file).catch(() => file)
    const other = names.get(real)
    if (other !== undefined)
      throw new DatasetError(
        other === file ? `${file} is named twice, and its records would count twice` : `${other} and ${file} are one file, whose records would count twice`,
        'name each file once'
      )
    names.set(real, file)
  }
}

function asFound<Read extends object> (read: Read | Refused): { readonly record: Read } | Refused {
  return 'reason' in read ? { reason: read.reason } : { record: read }
}

/** Returns the extension of a file's name, in lower case and without `.gz`. */
function extensionOf (path: string): string {
  return extname(path.toLowerCase().replace(/\.gz$/, ''))
}

/**
 * Returns the data files that a path names: itself, or those of a directory in the order of their names, hidden ones left out. Throws
 * DatasetError for none.
 */
export async function filesOf (path: string): Promise<string[]> {
  const isDirectory = await stat(path).then((found) => found.isDirectory(), () => false)
  if (!isDirectory) return [path]
  const entries = await readdir(path, { withFileTypes: true })
  const names = entries.filter((entry) => !entry.isDirectory() && !entry.name.startsWith('.') && extensions.includes(extensionOf(entry.name)))
    .map(({ name }) => name)
  if (names.length === 0) throw new DatasetError(`${path} itself holds no data file`, `name a file, or a directory with files that end in ${extensions.join(', ')}`)
  return names.sort().map((name) => join(path, name))
}

async function * readValues (path: string, extension: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  if (extension === '.csv' || extension === '.tsv') yield * readTable(path, signal)
  else if (extension === '.parquet') yield * readParquet(path, signal)
  else yield * readJson(path, signal)
}

/** Reads JSON lines, or a JSON array however it is broken into lines, or an object that holds the records. */
async function * readJson (path: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  const shape = await shapeOf(path, signal)
  if (shape === 'array') yield * readArray(path, signal)
  else if (shape === 'object') yield * readObject(path, signal)
  else yield * readJsonLines(path, signal)
}

/** Tells an array by its first character, and in a .json file an object of several lines, of more than a line may have, or with a list. */
async function shapeOf (path: string, signal: AbortSignal | undefined): Promise<'array' | 'object' | 'lines'> {
  const first = await firstCharacter(path, signal)
  if (first === '[') return 'array'
  if (first !== '{' || extensionOf(path) !== '.json') return 'lines'
  for await (const found of readLines(path, signal)) {
    if ('reason' in found) return found.reason === TOO_LONG ? 'object' : 'lines'
    if (found.text.trim() === '') continue
    const parsed = valueOf(found.text)
    return parsed === undefined || listIn(parsed.value) !== undefined ? 'object' : 'lines'
  }
  return 'lines'
}

async function firstCharacter (path: string, signal: AbortSignal | undefined): Promise<string | undefined> {
  for await (const text of readText(path, signal)) {
    const start = text.trimStart()
    if (start !== '') return start[0]
  }
  return undefined
}

async function * readArray (path: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  const array = new JsonArrayReader()
  const checked = utf8Check(path, signal)
  for await (const text of readText(path, signal)) for (const found of array.push(text)) yield await checked(found)
  yield * array.end()
}

/** Returns what refuses values with characters that bytes were read as which are not UTF-8. A file may have such characters itself. */
function utf8Check (path: string, signal: AbortSignal | undefined): (found: FoundValue) => FoundValue | Promise<FoundValue> {
  let isWhole: Promise<boolean> | undefined
  return (found) => {
    if ('reason' in found || !holdsReplacement(found.value)) return found
    isWhole ??= isUtf8(path, signal)
    return isWhole.then((whole) => whole ? found : { line: found.line, reason: NOT_UTF8 })
  }
}

function holdsReplacement (value: unknown): boolean {
  if (typeof value === 'string') return value.includes(REPLACEMENT)
  return typeof value === 'object' && value !== null && Object.entries(value).some(([name, each]) => name.includes(REPLACEMENT) || holdsReplacement(each))
}

/** Reads an object that holds the records; what turns out to be none is read as JSON lines, so that each line at fault is named. */
async function * readObject (path: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  const texts: string[] = []
  let length = 0
  for await (const text of readText(path, signal)) {
    length += text.length
    if (length > MAX_OBJECT_CHARACTERS) throw new DatasetError(`${path} is one object of more than ${MAX_OBJECT_CHARACTERS} characters`, 'write JSON lines')
    texts.push(text)
  }
  const text = texts.join('')
  const parsed = valueOf(text)
  if (parsed === undefined) {
    yield * readJsonLines(path, signal)
    return
  }
  const checked = utf8Check(path, signal)
  for (const found of recordsIn(parsed.value, lineOf(text))) yield text.includes(REPLACEMENT) ? await checked(found) : found
}

/** Returns the line on which the first character of a text stands that is no white space. */
function lineOf (text: string): number {
  return text.slice(0, text.length - text.trimStart().length).split('\n').length
}

async function * readJsonLines (path: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  let isFirst = true
  for await (const found of readLines(path, signal)) {
    if ('reason' in found) {
      yield found
      continue
    }
    const { line, text } = found
    if (text.trim() === '') continue
    const parsed = valueOf(text)
    if (isFirst && parsed !== undefined && listIn(parsed.value) !== undefined) yield * recordsIn(parsed.value, line)
    else yield parsed === undefined ? { line, reason: 'is not valid JSON' } : { line, value: parsed.value }
    isFirst = false
  }
}

/** Returns the only list of objects that an object holds, such as that of `{"version": 1, "data": [...]}`. */
function listIn (value: unknown): readonly unknown[] | undefined {
  if (typeof value !== 'object' || value === null || looksLikeRecord(value)) return undefined
  const lists = ['data', 'train', 'rows', 'examples', 'records'].flatMap((name) => Object.hasOwn(value, name) ? [(value as Record<string, unknown>)[name]] : [])
  return lists.length === 1 && Array.isArray(lists[0]) ? lists[0] as unknown[] : undefined
}

function * recordsIn (value: unknown, line: number): Generator<{ readonly line: number, readonly value: unknown }> {
  const list = listIn(value)
  if (list !== undefined) for (const each of list) yield { line, value: each }
  else {
    const entries = Object.values(value as Record<string, unknown>)
    const isMap = entries.length > 1 && entries.every((each) => typeof each === 'object' && each !== null && !Array.isArray(each))
    if (isMap) for (const each of entries) yield { line, value: each }
    else yield { line, value }
  }
}

function valueOf (text: string): { readonly value: unknown } | undefined {
  try {
    return { value: JSON.parse(text) as unknown }
  } catch {
    return undefined
  }
}

const [NEWLINE, QUOTE, COMMA, BACKSLASH] = [...'\n",\\'].map((character) => character.charCodeAt(0))
const [OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [...'[]{}'].map((character) => character.charCodeAt(0))
const SPACES: ReadonlySet<number> = new Set([...' \t\n\r'].map((character) => character.charCodeAt(0)))

/** Divides a JSON array into its elements as its text comes in pieces, holding one element at a time. */
class JsonArrayReader {
  /** What came of the element, and how much that is; nothing is kept of one that is too long. */
  #held: string[] = []
  #heldLength = 0
  /** Whether an element has begun, and the line on which it did; that of the array before the first. */
  #holding = false
  #startLine = 0
  #line = 1
  #depth = 0
  #inString = false
  #escaped = false
  #ended = false

  push (text: string): FoundValue[] {
    const found: FoundValue[] = []
    let from = 0
    const begin = (at: number): void => {
      if (this.#holding) return
      this.#holding = true
      this.#startLine = this.#line
      from = at
    }
    for (let at = 0; at < text.length; at++) {
      const code = text.charCodeAt(at)
      if (code === NEWLINE) this.#line++
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false
        else if (code === BACKSLASH) this.#escaped = true
        else if (code === QUOTE) this.#inString = false
        continue
      }
      if (code === QUOTE) this.#inString = true
      else if (code === OPEN_ARRAY || code === OPEN_OBJECT) this.#depth++
      else if (code === CLOSE_ARRAY || code === CLOSE_OBJECT) this.#depth--
      if (code === OPEN_ARRAY && this.#depth === 1 && this.#startLine === 0) this.#startLine = this.#line
      else if ((code === COMMA && this.#depth === 1) || (code === CLOSE_ARRAY && this.#depth === 0)) {
        if (this.#holding) this.#hold(text.slice(from, at))
        found.push(...this.#take())
        if (code === CLOSE_ARRAY) this.#ended = true
      } else if (!SPACES.has(code)) begin(at)
    }
    if (this.#holding) this.#hold(text.slice(from))
    return found
  }

  /** Says what is left over at the end of the file. */
  end (): FoundValue[] {
    return !this.#holding && this.#ended ? [] : [{ line: this.#startLine, reason: 'is the start of a JSON array that does not end' }]
  }

  #hold (piece: string): void {
    this.#heldLength += piece.length
    if (this.#heldLength <= MAX_LINE_BYTES) this.#held.push(piece)
    else this.#held = []
  }

  #take (): FoundValue[] {
    const [text, length, line] = [this.#held.join(''), this.#heldLength, this.#startLine]
    const holding = this.#holding
    this.#held = []
    this.#heldLength = 0
    this.#holding = false
    if (!holding) return []
    if (length > MAX_LINE_BYTES) return [{ line, reason: TOO_LONG }]
    const parsed = valueOf(text)
    return [parsed === undefined ? { line, reason: 'is not valid JSON' } : { line, value: parsed.value }]
  }
}

/** What the parser of tables tells of a row: its line, the columns of the header, and an error where the row has more or fewer. */
interface RowInfo {
  readonly lines: number
  readonly columns: readonly unknown[]
  readonly error?: { readonly record?: readonly unknown[] }
}

/** A table turned out to have its values apart by semicolons, as spreadsheets write it where a comma stands in numbers. */
class SemicolonsError extends Error {}

/** Reads a table with a header. An empty value is none. */
async function * readTable (path: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  if (extensionOf(path) === '.tsv') {
    yield * readSeparated(path, '\t', signal)
    return
  }
  try {
    yield * readSeparated(path, ',', signal)
  } catch (error) {
    if (!(error instanceof SemicolonsError)) throw error
    yield * readSeparated(path, ';', signal)
  }
}

async function * readSeparated (path: string, delimiter: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  await checkFile(path)
  const { parse } = await import('csv-parse') // what data of other formats need not load
  const checked = utf8Check(path, signal)
  const source = createReadStream(path)
  const bytes = path.toLowerCase().endsWith('.gz') ? source.pipe(createGunzip()) : source
  const parser = bytes.pipe(parse({
    bom: true, columns: (header: string[]) => columnsOf(header, delimiter), delimiter, info: true,
    relax_column_count: true, relax_quotes: true, skip_empty_lines: true, max_record_size: MAX_LINE_BYTES
  }))
  source.on('error', (error) => parser.destroy(error))
  bytes.on('error', (error: Error) => parser.destroy(error))
  try {
    for await (const { record, info } of parser as AsyncIterable<{ record: Record<string, string>, info: RowInfo }>) {
      signal?.throwIfAborted()
      // The parser counts the lines that it has read; a row begins as many before as it has line ends in its values.
      const ends = Object.values(record).reduce((count, value) => count + value.split('\n').length - 1, 0)
      yield await checked({ line: info.lines - ends, ...rowOf(record, info) })
    }
  } catch (error) {
    if (signal?.aborted === true || error instanceof SemicolonsError) throw error
    throw new DatasetError(`${path} cannot be read: ${(error as Error).message}`, 'see docs/data.md for the formats that Midspan reads', error)
  } finally {
    source.destroy()
  }
}

/** Checks the header of a table. Throws where two columns have one name, and SemicolonsError where semicolons are between its names. */
function columnsOf (header: readonly string[], delimiter: string): string[] {
  if (delimiter === ',' && header.length === 1 && header[0]!.includes(';')) throw new SemicolonsError()
  const names = header.map((name) => name.trim())
  const twice = names.find((name, i) => name !== '' && names.indexOf(name) !== i)
  if (twice !== undefined) throw new Error(`two of its columns are named ${JSON.stringify(twice)}`)
  return names
}

/** Returns a row as a value, or why it is none: what is beyond the header's columns would be lost. */
function rowOf (record: Readonly<Record<string, string>>, { columns, error }: RowInfo): { readonly value: unknown } | Refused {
  const values = error?.record?.length ?? columns.length
  if (values > columns.length) return { reason: `has ${values} values, and the header ${columns.length} columns: put values that hold the separator in quotes` }
  return { value: Object.fromEntries(Object.entries(record).map(([name, value]) => [name, value === '' ? null : value])) }
}

async function * readParquet (path: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } = await import('hyparquet')
  const { compressors } = await import('hyparquet-compressors')
  await checkFile(path)
  try {
    const file = await asyncBufferFromFile(path)
    const metadata = await parquetMetadataAsync(file)
    let start = 0
    for (const group of metadata.row_groups) {
      const end = start + Number(group.num_rows)
      const step = group.total_byte_size <= MAX_ROW_GROUP_BYTES ? end - start : PARQUET_ROWS
      for (let rowStart = start; rowStart < end; rowStart += step) {
        signal?.throwIfAborted()
        const found = await parquetReadObjects({ file, metadata, compressors, rowStart, rowEnd: Math.min(rowStart + step, end) })
        for (const [i, value] of found.entries()) yield { line: rowStart + i + 1, value: withNumbers(value) }
      }
      start = end
    }
  } catch (error) {
    if (signal?.aborted === true) throw error
    throw new DatasetError(`${path} cannot be read: ${(error as Error).message}`, 'see docs/data.md for the formats that Midspan reads', error)
  }
}

/** Returns a value with numbers in place of integers of 64 bits, as JSON has them, wherever a number can say them. */
function withNumbers (value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : value
  if (Array.isArray(value)) return value.map(withNumbers)
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, withNumbers(each)]))
}

/** Groups lines into documents at blank lines; a document that grows too long ends early. */
async function * readDocuments (
  path: string,
  signal: AbortSignal | undefined
): AsyncGenerator<{ readonly line: number } & ({ readonly text: string } | Refused)> {
  let start = 1
  let lines: string[] = []
  let length = 0
  for await (const found of readLines(path, signal)) {
    if ('reason' in found) {
      yield found
      continue
    }
    const { text } = found
    const blank = text.trim() === ''
    if (lines.length > 0 && (blank || length + text.length > MAX_DOCUMENT_CHARACTERS)) {
      yield { line: start, text: lines.join('\n') }
      lines = []
      length = 0
    }
    if (blank) continue
    if (lines.length === 0) start = found.line
    lines.push(text)
    length += text.length + 1
  }
  if (lines.length > 0) yield { line: start, text: lines.join('\n') }
}
