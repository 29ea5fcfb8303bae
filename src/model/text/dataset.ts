import type { WithholdRule } from '../privacy/withholding.ts'
import { maskChat } from './chat-mask.ts'
import { DatasetError, TokenizerError } from './errors.ts'
import { FoundLines, UnreadFields, unreadText, type BadLine, type Place } from './found-lines.ts'
import { readEach, recordReader, type RecordReader } from './read-records.ts'
import type { Columns, DataRecord } from './records.ts'
import { commonLength, tokenTexts } from './token-places.ts'
import type { Tokenizer } from './tokenizer.ts'
import { WordMarker } from './word-marker.ts'

/** One record as tokens. */
export interface Example {
  /** Token ids, ending with the tokenizer's end-of-text token where the record was not cut. */
  readonly ids: Int32Array
  /** 1 where predicting this token counts. Always 0 for the first: nothing comes before it. Of the same length as `ids`. */
  readonly lossMask: Uint8Array
  /** 1 where the token is withheld, in what was read with rules for that. Of the same length as `ids`. */
  readonly withheld?: Uint8Array
  /** What of the record is not used. */
  readonly notice?: string
}

export type { BadLine, Place } from './found-lines.ts'

export interface Dataset extends DatasetTotals {
  readonly examples: readonly Example[]
}

/** What was found in a data set. */
export interface DatasetTotals {
  /** All tokens, and those whose prediction counts. */
  readonly tokens: number
  readonly countedTokens: number
  /** How many examples were cut to `maxLength`. */
  readonly truncated: number
  /** How many lines were unusable; the first of them, with reasons. */
  readonly badLineCount: number
  readonly badLines: readonly BadLine[]
  /** How many records were found, the unusable included. */
  readonly records: number
  /** How many records are used otherwise than they are given, such as cut; the first of them. */
  readonly noticeCount: number
  readonly notices: readonly BadLine[]
}

export interface DatasetOptions {
  /** Longest example in tokens that are sent; longer ones are cut at the end. None unless given, as suits packing. */
  readonly maxLength?: number
  /**
   * Whether the loss is taken on what the model is to answer, or on every token. Plain text counts in full either way; of a prefix language
   * model, only the answer can count, and of a conversation only the last.
   */
  readonly lossOn: 'completion' | 'all'
  /** Why the model cannot learn from these ids, if it cannot. */
  readonly fault?: (ids: Int32Array) => string | undefined
  /** How many tokens the model has; records with others are left out. */
  readonly vocabularySize?: number
  /** Columns that stand for others: `{ completion: 'answer' }` reads the completion from the column `answer`. */
  readonly columns?: Columns | undefined
  /** Whether to go on where more than half of the records are unusable. */
  readonly skipBadLines?: boolean
  /** Marks the tokens that are withheld. */
  readonly mark?: (ids: Int32Array) => Uint8Array
  /** How values become records, where not as docs/data.md says. */
  readonly reader?: RecordReader<DataRecord> | undefined
}

/** How long encoding may hold the thread before others get their turn. */
const SLICE_MS = 20

/**
 * Reads and encodes data files (see docs/data.md). The files are streamed; the tokens stay in memory.
 * Throws DatasetError when no record is usable, or when more than half are not and `skipBadLines` is not set.
 */
export async function loadDataset (
  path: string | readonly string[],
  tokenizer: Tokenizer,
  options: DatasetOptions,
  signal?: AbortSignal
): Promise<Dataset> {
  const examples: Example[] = []
  const paths = typeof path === 'string' ? [path] : path
  const totals = await readDataset(paths, tokenizer, options, (example) => { examples.push(example) }, signal)
  return { examples, ...totals }
}

/** Reads and encodes data files, and hands each example over. Throws as `loadDataset` does. */
export async function readDataset (
  paths: readonly string[],
  tokenizer: Tokenizer,
  options: DatasetOptions,
  take: (example: Example) => void,
  signal?: AbortSignal
): Promise<DatasetTotals> {
  const [badLines, notices] = [new FoundLines(), new FoundLines()]
  const totals = { tokens: 0, countedTokens: 0, truncated: 0, records: 0 }
  const unreadFields = new UnreadFields()
  let examples = 0
  for await (const { place, found, bad, unread, ...record } of encodedRecords(paths, tokenizer, options, signal)) {
    totals.records++
    totals.truncated += record.truncated
    for (const { ids, lossMask, withheld } of found) {
      take({ ids, lossMask, ...(withheld === undefined ? {} : { withheld }) })
      examples++
      totals.tokens += ids.length
      totals.countedTokens += count(lossMask)
    }
    for (const reason of record.notices) notices.add(place, reason)
    unreadFields.add(place, unread)
    if (bad !== undefined) badLines.add(place, bad)
  }
  unreadFields.tell(notices)
  checkUsable(paths, { records: totals.records, badLines, used: examples }, options)
  return {
    ...totals, badLineCount: badLines.count, badLines: badLines.lines, noticeCount: notices.count, notices: notices.lines
  }
}

/** Throws DatasetError when no record is usable, or when more than half are not and `skipBadLines` is not set. */
export function checkUsable (
  paths: readonly string[],
  { records, badLines, used }: { readonly records: number, readonly badLines: FoundLines, readonly used: number },
  { skipBadLines }: Pick<DatasetOptions, 'skipBadLines'>,
  see = 'docs/data.md for the formats that Midspan reads'
): void {
  if (used === 0) throw nothingUsable(paths, badLines, see)
  if (badLines.count * 2 > records && skipBadLines !== true)
    throw new DatasetError(
      `${paths.join(', ')}: ${badLines.count} of ${records} records cannot be used${firstOf(badLines)}`,
      `see ${see}, or give --skip-bad-lines to use the others`
    )
}

/** One of the first records of the data. Where each answer is learnt apart, it is a part of a record that ends with one. */
export interface ShownRecord extends Place, Example {
  /** The text of each token within its text. Of a character that is made of several tokens, the last has the text. */
  readonly texts: readonly string[]
}

/** What rules for withholding mark in the whole data. */
export interface WithheldTotals {
  readonly tokens: number
  readonly withheldTokens: number
}

export interface FirstRecords {
  readonly records: readonly ShownRecord[]
  /** How many records before the last of them cannot be used; the first of these, with reasons. */
  readonly badLineCount: number
  readonly badLines: readonly BadLine[]
  /** Where rules say what is withheld. */
  readonly withheld?: WithheldTotals
}

/** Reads and encodes as many usable records as are asked for, and no more. Throws DatasetError when there is none. */
export async function firstRecords (
  paths: readonly string[],
  wanted: number,
  tokenizer: Tokenizer,
  options: DatasetOptions,
  signal?: AbortSignal
): Promise<FirstRecords> {
  const records: ShownRecord[] = []
  const badLines = new FoundLines()
  let usable = 0
  for await (const { place, found, bad, unread } of encodedRecords(paths, tokenizer, options, signal)) {
    for (const example of found) {
      const remarks = [example.notice, unread === undefined ? undefined : unreadText(unread)].filter((each) => each !== undefined)
      const notice = remarks.length === 0 ? {} : { notice: remarks.join('; ') }
      records.push({ ...place, ...example, ...notice, texts: tokenTexts([...example.ids], tokenizer) })
    }
    if (bad !== undefined) badLines.add(place, bad)
    if (found.length > 0 && ++usable === wanted) break
  }
  if (usable === 0) throw nothingUsable(paths, badLines)
  return { records, badLineCount: badLines.count, badLines: badLines.lines }
}

/**
 * Reads the first records, and marks the tokens of them that rules withhold. All of the data is read twice: what is rare or a name follows
 * from all of it. Throws as `firstRecords` does, and DatasetError for rules that mark nothing or everything.
 */
export async function firstRecordsWithheld (
  paths: readonly string[],
  wanted: number,
  tokenizer: Tokenizer,
  options: DatasetOptions,
  rules: readonly WithholdRule[],
  signal?: AbortSignal
): Promise<FirstRecords> {
  const marker = await markerOf(paths, tokenizer, options, rules, signal)
  const marking = { ...options, mark: (ids: Int32Array) => marker.mark(ids) }
  for await (const { place } of encodedRecords(paths, tokenizer, marking, signal)) void place
  const { totals } = marker
  const first = await firstRecords(paths, wanted, tokenizer, marking, signal)
  checkMarks(totals, { mayMarkNothing: false })
  return { ...first, withheld: { tokens: totals.tokens, withheldTokens: totals.withheld } }
}

/** Reads the data once to learn what is rare or a name, and returns what marks the tokens that rules withhold. */
export async function markerOf (
  paths: readonly string[],
  tokenizer: Tokenizer,
  { maxLength: _, ...options }: DatasetOptions,
  rules: readonly WithholdRule[],
  signal?: AbortSignal
): Promise<WordMarker> {
  const marker = new WordMarker(tokenizer, rules)
  for await (const { found } of encodedRecords(paths, tokenizer, options, signal)) for (const { ids } of found) marker.learn(ids)
  return marker
}

/** Throws DatasetError for rules that marked nothing, unless they may, or every word. */
export function checkMarks ({ words, withheld }: WordMarker['totals'], { mayMarkNothing }: { readonly mayMarkNothing: boolean }): void {
  if (withheld === 0 && !mayMarkNothing)
    throw new DatasetError('nothing in the data is withheld by these rules', 'give others, or leave them out')
  if (withheld === words && words > 0)
    throw new DatasetError('every word of the data is withheld by these rules, so that nothing could be learnt', 'give others')
}

function nothingUsable (
  paths: readonly string[],
  badLines: FoundLines,
  see = 'docs/data.md for the formats that Midspan reads'
): DatasetError {
  return new DatasetError(`${paths.join(', ')} holds no usable record${firstOf(badLines)}`, `see ${see}`)
}

function firstOf ({ lines: [first] }: FoundLines): string {
  return first === undefined ? '' : `: ${first.file === undefined ? '' : `${first.file} `}line ${first.line} ${first.reason}`
}

/** The examples that are made of a record. */
export interface Encoded {
  readonly found: readonly Example[]
  /** Why it cannot be used, or one of its parts cannot. */
  readonly bad: string | undefined
  /** What of it is used otherwise than it is given. */
  readonly notices: readonly string[]
  readonly truncated: number
}

interface EncodedRecord extends Encoded {
  readonly place: Place
  /** Fields of the record that are not read. */
  readonly unread: readonly string[] | undefined
}

/** Reads and encodes records one by one, and lets others have the thread every few milliseconds. */
async function * encodedRecords (
  paths: readonly string[],
  tokenizer: Tokenizer,
  options: DatasetOptions,
  signal: AbortSignal | undefined
): AsyncGenerator<EncodedRecord> {
  const { columns, reader = recordReader({ chatInstructions: tokenizer.hasChatTemplate, columns }) } = options
  let sliceStart = performance.now()
  for await (const { line, file, ...found } of readEach(paths, reader, signal)) {
    const place = { line, ...(file === undefined ? {} : { file }) }
    const encoded = 'reason' in found
      ? { found: [], bad: found.reason, notices: [], truncated: 0 }
      : examplesOf(found.record, tokenizer, options)
    yield { place, ...encoded, unread: 'record' in found ? found.record.unread : undefined }
    if (performance.now() - sliceStart > SLICE_MS) {
      signal?.throwIfAborted()
      await new Promise<void>((resolve) => setImmediate(resolve))
      sliceStart = performance.now()
    }
  }
}

/** Makes examples of a record: one, or several where each answer is learnt apart. */
export function examplesOf (
  record: DataRecord,
  tokenizer: Tokenizer,
  { maxLength = Infinity, lossOn, fault, vocabularySize = Infinity, mark }: DatasetOptions
): Encoded {
  const found: Example[] = []
  const notices: string[] = []
  let bad: string | undefined
  let truncated = 0
  for (const encoded of encodedParts(record, tokenizer, lossOn)) {
    const usable = 'reason' in encoded ? encoded : truncate(marked(encoded, mark), maxLength)
    if ('ids' in encoded && 'ids' in usable && usable.ids.length < encoded.ids.length) {
      truncated++
      notices.push(`is cut at ${maxLength} of ${encoded.ids.length} tokens, so that its end is not learnt`)
    }
    const example = checked(usable, (ids) => beyond(ids, vocabularySize, tokenizer) ?? fault?.(ids))
    if ('reason' in example) bad ??= example.reason
    else {
      found.push(example)
      if (example.notice !== undefined) notices.push(example.notice)
    }
  }
  return { found, bad, notices, truncated }
}

/** Names the first token that the model has no embedding for, if any. */
function beyond (ids: Int32Array, vocabularySize: number, tokenizer: Tokenizer): string | undefined {
  const id = ids.find((each) => each >= vocabularySize)
  if (id === undefined) return undefined
  return `holds the token ${JSON.stringify(tokenizer.decode([id], { skipSpecialTokens: false }))} (${id}), beyond the model's vocabulary of ${vocabularySize}`
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
  const ids = Int32Array.from(withEnd(encodeOnce(text, tokenizer), tokenizer.eosId))
  const from = record.kind === 'text' || lossOn === 'all' ? 0 : commonLength(encodeOnce(prompt, tokenizer), ids)
  return { ids, lossMask: mask(ids.length, [[from, ids.length]]) }
}

/** Makes what a prefix language model learns: its answer to a context, whose own tokens are seen but not predicted. */
function encodeAnswer (context: readonly number[], answer: string, tokenizer: Tokenizer): Example {
  const ids = Int32Array.from([...context, ...withEnd(tokenizer.encode(answer, { addSpecialTokens: false }), tokenizer.eosId)])
  return { ids, lossMask: mask(ids.length, [[context.length, ids.length]]) }
}

function encodeChat (
  { messages, learnFrom, unlearnt }: Conversation,
  tokenizer: Tokenizer,
  lossOn: DatasetOptions['lossOn']
): Example | { readonly reason: string } {
  if (tokenizer.answersContexts) {
    const last = messages.findLastIndex(({ role }) => role === 'assistant')
    const context = tokenizer.encodeChat(messages.slice(0, last), { addGenerationPrompt: true })
    return encodeAnswer(context, messages[last]!.content, tokenizer)
  }
  const learns = (i: number): boolean => messages[i]!.role === 'assistant' && i >= learnFrom && unlearnt?.has(i) !== true
  const masked = maskChat(messages, learns, tokenizer)
  if ('reason' in masked) return masked
  const { ids, answers, unused, partly } = masked
  const remarks = [
    ...(unused.length === 0 ? [] : [`has ${unused.join(' and ')}, which the chat template does not write`]),
    ...(partly.length === 0 ? [] : [`has a part in message ${partly.join(' and ')} that the chat template does not write`])
  ]
  const notice = remarks.length === 0 ? {} : { notice: remarks.join('; ') }
  return { ids: Int32Array.from(ids), lossMask: mask(ids.length, lossOn === 'all' ? [[0, ids.length]] : answers), ...notice }
}

/**
 * Encodes a record as one sequence. Of a conversation each answer becomes a sequence of its own where the template ends only the last one,
 * and where one text does not have all of the conversation: then all answers can be used, or none.
 */
function * encodedParts (record: DataRecord, tokenizer: Tokenizer, lossOn: DatasetOptions['lossOn']): Generator<Example | { readonly reason: string }> {
  const isChat = record.kind === 'chat' && tokenizer.hasChatTemplate && !tokenizer.answersContexts
  const whole = isChat && !tokenizer.closesAnswers ? undefined : encodeRecord(record, tokenizer, lossOn)
  if (whole !== undefined && (!isChat || !('reason' in whole))) {
    yield whole
    return
  }
  const parts = [...answersApart(record as Conversation)].map((part) => encodeRecord(part, tokenizer, lossOn))
  if (whole !== undefined && parts.some((part) => 'reason' in part)) yield whole
  else yield * parts
}

type Conversation = Extract<DataRecord, { kind: 'chat' }>

/** Returns a conversation for each answer that is to be learnt, which ends with that answer. */
function * answersApart (record: Conversation): Generator<Conversation> {
  for (const [i, { role }] of record.messages.entries())
    if (role === 'assistant' && i >= record.learnFrom && record.unlearnt?.has(i) !== true)
      yield { ...record, messages: record.messages.slice(0, i + 1), learnFrom: i }
}

function marked (example: Example, mark: DatasetOptions['mark']): Example {
  return mark === undefined ? example : { ...example, withheld: mark(example.ids) }
}

function truncate (example: Example, maxLength: number): Example | { reason: string } {
  const { ids, lossMask, withheld } = example
  const end = endOf(example, maxLength)
  const cut = end === ids.length
    ? example
    : {
      ...example,
      ids: ids.slice(0, end),
      lossMask: lossMask.slice(0, end),
      ...(withheld === undefined ? {} : { withheld: withheld.slice(0, end) })
    }
  if (count(cut.lossMask) > 0) return cut
  return { reason: end < ids.length ? `has nothing to learn within its first ${maxLength} tokens` : 'has nothing to learn' }
}

/** Returns how many tokens come before the one after `maxLength` that are sent: where a text is cut depends on these alone. */
function endOf ({ ids, withheld }: Example, maxLength: number): number {
  if (withheld === undefined) return Math.min(ids.length, maxLength)
  let sent = 0
  for (const [i, isWithheld] of withheld.entries()) if (isWithheld === 0 && ++sent > maxLength) return i
  return ids.length
}

function checked (cut: Example | { reason: string }, fault: DatasetOptions['fault']): Example | { reason: string } {
  const reason = 'reason' in cut ? undefined : fault?.(cut.ids)
  return reason === undefined ? cut : { reason }
}

function withEnd (ids: number[], eosId: number | undefined): number[] {
  return eosId === undefined || ids.at(-1) === eosId ? ids : [...ids, eosId]
}

/** Encodes a text that may begin with the token that begins a sequence, which is then not written twice. */
function encodeOnce (text: string, tokenizer: Tokenizer): number[] {
  const ids = tokenizer.encode(text)
  return ids.length > 1 && ids[0] === tokenizer.bosId && ids[1] === tokenizer.bosId ? ids.slice(1) : ids
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
