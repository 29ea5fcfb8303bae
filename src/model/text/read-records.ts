import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { createGunzip } from 'node:zlib'
import { DatasetError } from './errors.ts'
import { MAX_LINE_BYTES, readLines } from './lines.ts'
import { recordOf, type Columns, type DataRecord, type Refused } from './records.ts'

/** Longer plain-text documents are cut at line ends: a tokenizer takes a document in one go, about half a second for this many. */
const MAX_DOCUMENT_CHARACTERS = 64 * 1024

/** A JSON file that is one object, such as `{"data": [...]}`, is read whole up to this size. */
const MAX_OBJECT_CHARACTERS = 256 * 1024 * 1024

/** Rows of a Parquet file that are in memory at a time. */
const PARQUET_ROWS = 1024

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
  for (const file of files) {
    const named = files.length > 1 ? { file } : {}
    const name = file.toLowerCase().replace(/\.gz$/, '')
    if (extname(name) === '.txt') {
      for await (const found of readDocuments(file, signal))
        yield { ...named, line: found.line, ...asFound('reason' in found ? found : reader.ofText(found.text)) }
      continue
    }
    for await (const found of readValues(file, extname(name), signal))
      yield { ...named, line: found.line, ...asFound('reason' in found ? found : reader.ofValue(found.value)) }
  }
}

function asFound<Read extends object> (read: Read | Refused): { readonly record: Read } | Refused {
  return 'reason' in read ? { reason: read.reason } : { record: read }
}

/** Returns the data files that a path names: itself, or those of a directory in the order of their names. Throws DatasetError for none. */
export async function filesOf (path: string): Promise<string[]> {
  const isDirectory = await stat(path).then((found) => found.isDirectory(), () => false)
  if (!isDirectory) return [path]
  const names = (await readdir(path)).filter((name) => extensions.includes(extname(name.toLowerCase().replace(/\.gz$/, ''))))
  if (names.length === 0) throw new DatasetError(`${path} holds no data file`, `name a file, or a directory with files that end in ${extensions.join(', ')}`)
  return names.sort().map((name) => join(path, name))
}

async function * readValues (path: string, extension: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  if (extension === '.csv' || extension === '.tsv') yield * readTable(path, extension === '.tsv' ? '\t' : ',', signal)
  else if (extension === '.parquet') yield * readParquet(path, signal)
  else yield * readJson(path, signal)
}

/** Reads JSON lines, or a JSON array however it is broken into lines, or an object that holds the records. */
async function * readJson (path: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  let array: JsonArrayReader | undefined
  let whole: string[] | undefined
  let [wholeLength, start] = [0, 0]
  for await (const found of readLines(path, signal)) {
    if ('reason' in found) {
      yield found
      continue
    }
    const { line } = found
    const text = start === 0 ? found.text.replace(/^\ufeff/, '') : found.text
    if (text.trim() === '' && array === undefined && whole === undefined) continue
    if (start === 0) {
      start = line
      if (text.trimStart().startsWith('[')) array = new JsonArrayReader()
      else if (text.trimStart().startsWith('{') && valueOf(text) === undefined && extname(path.toLowerCase().replace(/\.gz$/, '')) === '.json') whole = []
    }
    if (array !== undefined) yield * array.push(text, line)
    else if (whole !== undefined) {
      wholeLength += text.length
      if (wholeLength > MAX_OBJECT_CHARACTERS) throw new DatasetError(`${path} is one object of more than ${MAX_OBJECT_CHARACTERS} characters`, 'write JSON lines')
      whole.push(text)
    } else {
      const parsed = valueOf(text)
      if (start === line && parsed !== undefined && typeof parsed.value === 'object' && listIn(parsed.value) !== undefined) yield * recordsIn(parsed.value, line)
      else yield parsed === undefined ? { line, reason: 'is not valid JSON' } : { line, value: parsed.value }
    }
  }
  if (array !== undefined) yield * array.end()
  if (whole === undefined) return
  const parsed = valueOf(whole.join('\n'))
  if (parsed !== undefined) yield * recordsIn(parsed.value, start)
  else yield * whole.map((text, i) => ({ text, line: start + i })).filter(({ text }) => text.trim() !== '').map(({ text, line }): FoundValue => {
    const each = valueOf(text)
    return each === undefined ? { line, reason: 'is not valid JSON' } : { line, value: each.value }
  })
}

/** Returns the only list of objects that an object holds, such as that of `{"version": 1, "data": [...]}`. */
function listIn (value: unknown): readonly unknown[] | undefined {
  if (typeof value !== 'object' || value === null || Object.hasOwn(value, 'messages')) return undefined
  const lists = ['data', 'train', 'rows', 'examples', 'records'].flatMap((name) => Object.hasOwn(value, name) ? [(value as Record<string, unknown>)[name]] : [])
  return lists.length === 1 && Array.isArray(lists[0]) ? lists[0] as unknown[] : undefined
}

function * recordsIn (value: unknown, line: number): Generator<FoundValue> {
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

/** Divides a JSON array into its elements as its lines come, holding one element at a time. */
class JsonArrayReader {
  #held = ''
  #line = 0
  #depth = 0
  #inString = false
  #escaped = false
  #ended = false

  push (text: string, line: number): FoundValue[] {
    const found: FoundValue[] = []
    for (const character of `${text}\n`) {
      const structural = !this.#inString
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false
        else if (character === '\\') this.#escaped = true
        else if (character === '"') this.#inString = false
      } else if (character === '"') this.#inString = true
      else if (character === '[' || character === '{') this.#depth++
      else if (character === ']' || character === '}') this.#depth--
      if (structural && this.#depth === 1 && character === '[' && this.#held === '' && this.#line === 0) {
        this.#line = line
        continue
      }
      if (structural && ((this.#depth === 1 && character === ',') || (this.#depth === 0 && character === ']'))) {
        found.push(...this.#take())
        if (character === ']') this.#ended = true
        continue
      }
      if (this.#held === '' && character.trim() === '') continue
      if (this.#held === '') this.#line = line
      if (this.#held.length <= MAX_LINE_BYTES) this.#held += character
    }
    return found
  }

  /** Says what is left over at the end of the file. */
  end (): FoundValue[] {
    return this.#held.trim() === '' && this.#ended ? [] : [{ line: this.#line, reason: 'is the start of a JSON array that does not end' }]
  }

  #take (): FoundValue[] {
    const text = this.#held.trim()
    this.#held = ''
    if (text === '') return []
    const parsed = text.length > MAX_LINE_BYTES ? undefined : valueOf(text)
    return [parsed === undefined ? { line: this.#line, reason: 'is not valid JSON' } : { line: this.#line, value: parsed.value }]
  }
}

async function * readTable (path: string, delimiter: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  const { parse } = await import('csv-parse') // what data of other formats need not load
  const source = createReadStream(path)
  const bytes = path.toLowerCase().endsWith('.gz') ? source.pipe(createGunzip()) : source
  const parser = bytes.pipe(parse({
    bom: true, columns: true, delimiter, info: true, relax_column_count: true, relax_quotes: true,
    skip_empty_lines: true, max_record_size: MAX_LINE_BYTES
  }))
  source.on('error', (error) => parser.destroy(error))
  bytes.on('error', (error: Error) => parser.destroy(error))
  try {
    for await (const { record, info } of parser as AsyncIterable<{ record: Record<string, string>, info: { lines: number } }>) {
      signal?.throwIfAborted()
      yield { line: info.lines, value: record }
    }
  } catch (error) {
    if (signal?.aborted === true) throw error
    throw new DatasetError(`${path} cannot be read: ${(error as Error).message}`, 'see docs/data.md for the formats that Midspan reads', error)
  } finally {
    source.destroy()
  }
}

async function * readParquet (path: string, signal: AbortSignal | undefined): AsyncGenerator<FoundValue> {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } = await import('hyparquet')
  const { compressors } = await import('hyparquet-compressors')
  try {
    const file = await asyncBufferFromFile(path)
    const metadata = await parquetMetadataAsync(file)
    const rows = Number(metadata.num_rows)
    for (let rowStart = 0; rowStart < rows; rowStart += PARQUET_ROWS) {
      signal?.throwIfAborted()
      const found = await parquetReadObjects({ file, metadata, compressors, rowStart, rowEnd: Math.min(rowStart + PARQUET_ROWS, rows) })
      for (const [i, value] of found.entries()) yield { line: rowStart + i + 1, value }
    }
  } catch (error) {
    if (signal?.aborted === true) throw error
    throw new DatasetError(`${path} cannot be read: ${(error as Error).message}`, 'see docs/data.md for the formats that Midspan reads', error)
  }
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
    const text = found.line === 1 ? found.text.replace(/^\ufeff/, '') : found.text
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
