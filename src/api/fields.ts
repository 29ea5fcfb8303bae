import { z } from 'zod'

/** Fields and events that several operations share. */

/** The longest wait that a timer of Node.js can measure, in milliseconds: a longer one would end at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1

export const count = z.int().min(0)

export const isoTime = z.string().describe('ISO 8601')

export const traffic = {
  sentBytes: count.describe('bytes sent to servers'),
  receivedBytes: count.describe('bytes received from servers')
}

export const span = z.object({
  first: count.describe('the first block'),
  end: count.describe('the block after the last')
})

/** What an operation waits for when nothing has come for some seconds. */
export const waiting = z.object({
  type: z.literal('waiting'),
  reason: z.string().describe('what the operation waits for')
})

export type Waiting = z.output<typeof waiting>

/** How long an operation waits for servers before it gives up. */
export const timeoutMs = z.int().min(1).max(MAX_TIMER_MS).default(120_000)
  .describe('milliseconds without anything from a server after which the operation gives up')

/** Lines of a data file, each with what is said of it. */
export const dataLines = z.array(z.object({
  file: z.string().optional().describe('the file, where there are several'),
  line: z.int().min(1).describe('the line, or the row where a format has rows, counted from 1'),
  reason: z.string()
})).readonly()

/** What was found in the data: how many records, which of them cannot be used, and which are used otherwise than they are given. */
export const dataFound = {
  recordsRead: count.describe('records that were read, those that cannot be used included'),
  skipped: count.describe('records that cannot be used'),
  skippedLines: dataLines.describe('the first of the records that cannot be used'),
  noticed: count.describe('remarks on records that are used otherwise than they are given, such as cut'),
  notices: dataLines.describe('the first of these remarks')
}

export type DataFound = z.output<z.ZodObject<typeof dataFound>>

/** A number for people that may be no number: null where it is not finite. */
export const finiteOrNull = z.number().nullable()
