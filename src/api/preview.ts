import { z } from 'zod'
import { dataParameters } from './data.ts'
import { count, dataLines } from './fields.ts'
import { operation } from './operation.ts'

/** Records that one preview shows at most: it is read by people. */
export const MAX_PREVIEW_RECORDS = 1000

export const preview = operation({
  about: 'Shows the tokens of the first records of a data file, and which of them the loss counts',
  parameters: dataParameters.extend({
    records: z.int().min(1).max(MAX_PREVIEW_RECORDS).default(3).describe('records to show')
  }),
  progress: {
    record: z.object({
      type: z.literal('record'),
      file: z.string().optional().describe('the file, where there are several'),
      line: z.int().min(1).describe('the line, or the row where a format has rows, counted from 1'),
      tokens: z.array(z.object({
        id: count,
        text: z.string().describe('the text of the token; empty but for the last token of a character that has several'),
        counted: z.boolean().describe('whether the loss counts the prediction of the token'),
        withheld: z.boolean().optional().describe('whether the rules withhold it, where there are any')
      })).readonly(),
      countedTokens: count.describe('tokens that the loss counts'),
      notice: z.string().optional().describe('what of the record is not used')
    })
  },
  result: z.object({
    type: z.literal('done'),
    packing: z.enum(['packed', 'padded']).describe('how training makes sequences of records'),
    maxTokens: count.describe('tokens of a sequence at most'),
    skipped: count.describe('records before the last shown that cannot be used'),
    skippedLines: dataLines.describe('the first of these'),
    withheld: z.object({
      tokens: count.describe('tokens of the whole data'),
      withheldTokens: count.describe('tokens among them that the rules withhold')
    }).optional().describe('where there are rules')
  })
})
