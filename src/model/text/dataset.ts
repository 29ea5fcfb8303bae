import { extname } from 'node:path'
import { DatasetError, TokenizerError } from './errors.ts'
import { readLines } from './lines.ts'
import { parseRecord, type DataRecord } from './records.ts'
import type { Tokenizer } from './tokenizer.ts'

/** One record as tokens. */
export interface Example {
  /** Token ids, ending with the tokenizer's end-of-text token where the record was not cut. */
  readonly ids: Int32Array
  /** 1 where predicting this token counts. Always 0 for the first: nothing comes before it. Of the same length as `ids`. */
  readonly lossMask: Uint8Array
}

export interface BadLine {
  readonly line: number
  readonly reason: string
}

export interface Dataset {
  readonly examples: readonly Example[]
  /** All tokens, and those whose prediction counts. */
  readonly tokens: number
  readonly countedTokens: number
  /** How many examples were cut to `maxLength`. */
  readonly truncated: number
  /** How many lines were unusable; the first of them, with reasons. */
  readonly badLineCount: number
  readonly badLines: readonly BadLine[]
}

export interface DatasetOptions {
  /** Longest example in tokens; longer ones are cut at the end. None unless given, as suits packing. */
  readonly maxLength?: number
  /**
   * Whether the loss is taken on what the model is to answer, or on every token. Plain text counts in full either way; of a prefix language
   * model, only the answer can count, and of a conversation only the last.
   */
  readonly lossOn: 'completion' | 'all'
  /** Why the model cannot learn from these ids, if it cannot. */
  readonly fault?: (ids: Int32Array) => string | undefined
}

/** How many bad lines are kept with their reasons: enough to see what is wrong with a file. */
const MAX_BAD_LINES = 20

/** Longer plain-text documents are cut at line ends: a tokenizer takes a document in one go, about half a second for this many. */
const MAX_DOCUMENT_CHARACTERS = 64 * 1024

/** How long encoding may hold the thread before others get their turn. */
const SLICE_MS = 20

/**
 * Reads and encodes a data file: `.txt` as documents between blank lines, anything else as JSONL (see `parseRecord`). The file is streamed;
 * the tokens stay in memory. Throws DatasetError when no line is usable.
 */
export async function loadDataset (
  path: string,
  tokenizer: Tokenizer,
  { maxLength = Infinity, lossOn, fault }: DatasetOptions,
  signal?: AbortSignal
): Promise<Dataset> {
  const examples: Example[] = []
  const badLines: BadLine[] = []
  const totals = { tokens: 0, countedTokens: 0, truncated: 0, badLineCount: 0 }
  let sliceStart = performance.now()
  for await (const { line, ...found } of readRecords(path, tokenizer.hasChatTemplate, signal)) {
    const encoded = 'reason' in found ? found : encodeRecord(found.record, tokenizer, lossOn)
    const cut = checked('reason' in encoded ? encoded : truncate(encoded, maxLength), fault)
    if ('reason' in cut) {
      totals.badLineCount++
      if (badLines.length < MAX_BAD_LINES) badLines.push({ line, reason: cut.reason })
    } else {
      examples.push(cut)
      totals.tokens += cut.ids.length
      totals.countedTokens += count(cut.lossMask)
      if ('ids' in encoded && cut.ids.length < encoded.ids.length) totals.truncated++
    }
    if (performance.now() - sliceStart > SLICE_MS) {
      signal?.throwIfAborted()
      await new Promise<void>((resolve) => setImmediate(resolve))
      sliceStart = performance.now()
    }
  }
  if (examples.length === 0) {
    const [first] = badLines
    throw new DatasetError(
      `${path} holds no usable record${first === undefined ? '' : `: line ${first.line} ${first.reason}`}`,
      'see the data formats that Midspan reads'
    )
  }
  return { examples, badLines, ...totals }
}

/** Encodes a record, marking the tokens that count. Returns a reason where it cannot be used. */
export function encodeRecord (
  record: DataRecord,
  tokenizer: Tokenizer,
  lossOn: DatasetOptions['lossOn']
): Example | { readonly reason: string } {
  try {
    if (record.kind === 'chat') return encodeChat(record, tokenizer, lossOn)
  } catch (error) {
    if (error instanceof TokenizerError) return { reason: error.message }
    throw error
  }
  const { prompt, completion } = record.kind === 'text' ? { prompt: '', completion: record.text } : record
  const text = prompt + completion
  if (text.trim() === '') return { reason: 'is empty' }
  if (tokenizer.answersContexts) return encodeAnswer(tokenizer.encode(prompt), completion, tokenizer)
  const ids = Int32Array.from(withEnd(tokenizer.encode(text), tokenizer.eosId))
  const from = record.kind === 'text' || lossOn === 'all' ? 0 : commonLength(tokenizer.encode(prompt), ids)
  return { ids, lossMask: mask(ids.length, [[from, ids.length]]) }
}

/** What a prefix language model learns: its answer to a context, whose own tokens are seen but not predicted. */
function encodeAnswer (context: readonly number[], answer: string, tokenizer: Tokenizer): Example {
  const ids = Int32Array.from([...context, ...withEnd(tokenizer.encode(answer, { addSpecialTokens: false }), tokenizer.eosId)])
  return { ids, lossMask: mask(ids.length, [[context.length, ids.length]]) }
}

function encodeChat (
  { messages, learnFrom }: Extract<DataRecord, { kind: 'chat' }>,
  tokenizer: Tokenizer,
  lossOn: DatasetOptions['lossOn']
): Example {
  const encode = (count: number, addGenerationPrompt: boolean): number[] =>
    tokenizer.encodeChat(messages.slice(0, count), { addGenerationPrompt })
  if (tokenizer.answersContexts) {
    const last = messages.findLastIndex(({ role }) => role === 'assistant')
    return encodeAnswer(encode(last, true), messages[last]!.content, tokenizer)
  }
  const ids = Int32Array.from(encode(messages.length, false))
  if (lossOn === 'all') return { ids, lossMask: mask(ids.length, [[0, ids.length]]) }
  const turns = messages.flatMap(({ role }, i): Array<[number, number]> => {
    if (role !== 'assistant' || i < learnFrom) return []
    return [[i === 0 ? 0 : commonLength(encode(i, true), ids), commonLength(encode(i + 1, false), ids)]]
  })
  return { ids, lossMask: mask(ids.length, turns) }
}

type FoundRecord = { line: number } & ({ record: DataRecord } | { reason: string })

async function * readRecords (path: string, chatInstructions: boolean, signal: AbortSignal | undefined): AsyncGenerator<FoundRecord> {
  if (extname(path).toLowerCase() === '.txt') {
    yield * readDocuments(path, signal)
    return
  }
  for await (const found of readLines(path, signal)) {
    if ('reason' in found) yield found
    else if (found.text.trim() !== '') {
      const record = parseRecord(found.text, chatInstructions)
      yield 'reason' in record ? { line: found.line, reason: record.reason } : { line: found.line, record }
    }
  }
}

/** Groups lines into documents at blank lines; a document that grows too long ends early. */
async function * readDocuments (path: string, signal: AbortSignal | undefined): AsyncGenerator<FoundRecord> {
  let start = 1
  let lines: string[] = []
  let length = 0
  for await (const found of readLines(path, signal)) {
    if ('reason' in found) {
      yield found
      continue
    }
    const blank = found.text.trim() === ''
    if (lines.length > 0 && (blank || length + found.text.length > MAX_DOCUMENT_CHARACTERS)) {
      yield { line: start, record: { kind: 'text', text: lines.join('\n') } }
      lines = []
      length = 0
    }
    if (blank) continue
    if (lines.length === 0) start = found.line
    lines.push(found.text)
    length += found.text.length + 1
  }
  if (lines.length > 0) yield { line: start, record: { kind: 'text', text: lines.join('\n') } }
}

function truncate ({ ids, lossMask }: Example, maxLength: number): Example | { reason: string } {
  const cut = ids.length <= maxLength ? { ids, lossMask } : { ids: ids.slice(0, maxLength), lossMask: lossMask.slice(0, maxLength) }
  if (count(cut.lossMask) > 0) return cut
  return { reason: ids.length > maxLength ? `has nothing to learn within its first ${maxLength} tokens` : 'has nothing to learn' }
}

function checked (cut: Example | { reason: string }, fault: DatasetOptions['fault']): Example | { reason: string } {
  const reason = 'reason' in cut ? undefined : fault?.(cut.ids)
  return reason === undefined ? cut : { reason }
}

function withEnd (ids: number[], eosId: number | undefined): number[] {
  return eosId === undefined || ids.at(-1) === eosId ? ids : [...ids, eosId]
}

/** How many leading ids agree. A token that spans the border of prompt and answer belongs to the answer. */
function commonLength (prefix: readonly number[], ids: Int32Array): number {
  let length = 0
  while (length < prefix.length && length < ids.length && prefix[length] === ids[length]) length++
  return length
}

function mask (length: number, ranges: ReadonlyArray<readonly [number, number]>): Uint8Array {
  const marks = new Uint8Array(length)
  for (const [from, to] of ranges) marks.fill(1, from, to)
  marks[0] = 0
  return marks
}

function count (lossMask: Uint8Array): number {
  let total = 0
  for (const mark of lossMask) total += mark
  return total
}
