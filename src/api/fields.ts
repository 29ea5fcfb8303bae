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

/** Lines of a data file that cannot be used. */
export const skippedLines = z.array(z.object({
  line: z.int().min(1).describe('counted from 1'),
  reason: z.string()
})).readonly().describe('lines of the data that cannot be used, the first of them')

/** A number for people that may be no number: null where it is not finite. */
export const finiteOrNull = z.number().nullable()
