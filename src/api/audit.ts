import { z } from 'zod'
import { dataParameters } from './data.ts'
import { count, dataFound, finiteOrNull } from './fields.ts'
import { operation } from './operation.ts'

/** Tokens that one audit attacks at most: its errors are below a tenth of a percent then. */
export const MAX_AUDIT_TOKENS = 100_000

/** Rounds of each training that an audit tries at most. */
export const MAX_AUDIT_ROUNDS = 10_000

/** Below so many attacked tokens the errors are larger than most differences. */
export const FEW_AUDIT_TOKENS = 200

/** A share with its standard error. */
export const auditFigure = z.object({
  value: z.number().describe('a share, 0 to 1'),
  error: z.number().describe('its standard error')
})

const figure = auditFigure

export type AuditFigure = z.output<typeof auditFigure>

const point = z.object({
  noise: z.number().min(0),
  alone: figure.describe('tokens recovered from what was released alone'),
  withPrior: figure.describe('tokens recovered with the prior'),
  hard: figure.nullable().describe('tokens recovered with the prior among those to which the prior gives less than 5 %; null where there are none'),
  leak: figure.describe("the share of the text's information that leaks: 1 less the cross-entropy after the attack over that of the prior"),
  crossEntropy: finiteOrNull.describe('after the attack, in nats a token')
})

export type AuditPoint = z.output<typeof point>

const attack = z.object({
  name: z.enum(['oracle', 'base-oracle', 'gradients']),
  about: z.string().describe('what whoever attacks knows, and does'),
  of: z.enum(['hidden', 'gradient']).describe('what was released: hidden states, or gradients, of which the labels are attacked'),
  tokens: count.describe('tokens, or labels, that were attacked'),
  candidates: count.describe('candidates that were tried for each: all of the vocabulary where that is affordable'),
  guessed: figure.describe('the share of these that the prior alone foretells'),
  deployed: point.describe('as the settings are'),
  curve: z.array(point).readonly().describe('at other noises, in rising order; the first is without noise')
})

export type AuditAttack = z.output<typeof attack>

const protection = z.object({
  clip: z.number().nullable().describe('the L2 norm of a row at most; null where rows are not clipped'),
  noise: z.number().min(0).describe("the expected norm of a row's noise over the clip")
})

const withheldWords = z.object({
  rules: z.string().describe('the rules by which words were withheld'),
  about: z.string().describe('what whoever attacks knows, and does'),
  tokens: count.describe('withheld tokens that were attacked'),
  share: z.number().describe('their share of all attacked tokens'),
  guessed: figure.describe('the share of these that the prior foretells with all words before each known, withheld ones among them'),
  guessedCrossEntropy: finiteOrNull.describe('of the prior on them, in nats a token'),
  before: figure.describe('the share recovered by the sent words before each'),
  recovered: figure.describe('the share recovered by the sent words before and behind each'),
  hardTokens: count.describe('tokens among them to which the prior gives less than 5 %'),
  hard: figure.nullable().describe('the share recovered of these; null where there are none'),
  leak: figure.describe('1 less the cross-entropy after the attack, with the withheld words before each known, over that of the prior'),
  crossEntropy: finiteOrNull.describe('after the attack, in nats a token'),
  whole: z.object({ recovered: figure, leak: figure }).describe('of all attacked tokens, sent and withheld, against the prior with all words known')
})

export type AuditWithheld = z.output<typeof withheldWords>

export const audit = operation({
  about: 'Attacks what the settings let leave of a text, on this machine: nothing of it is sent',
  parameters: dataParameters.extend({
    tokens: z.int().min(1).max(MAX_AUDIT_TOKENS).default(600).describe('tokens to attack, at most'),
    prior: z.string().min(1).optional()
      .describe('what an attacker knows of such text: the directory of a language model with the same tokenizer, or a file of public text'),
    model: z.string().min(1).optional()
      .describe('the directory of the whole model, for the losses that need the blocks of the servers'),
    evalData: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).readonly()]).optional()
      .describe('paths of data that is held out for the losses; every eighth record where there is none'),
    rounds: z.int().min(0).max(MAX_AUDIT_ROUNDS).default(60).describe('rounds of each training that is tried; 0 measures no losses'),
    noise: z.number().min(0).optional().describe('noise on hidden states in place of the setting, relative to the clip'),
    gradientNoise: z.number().min(0).optional().describe('noise on gradients in place of the setting, relative to the clip')
  }),
  progress: {
    start: z.object({
      type: z.literal('start'),
      records: count.describe('records that the attacked tokens are drawn from'),
      tokens: count.describe('tokens that are attacked'),
      notices: z.array(z.string()).readonly().describe('what limits the figures'),
      data: z.object(dataFound)
    }),
    progress: z.object({
      type: z.literal('progress'),
      work: z.string().describe('what is done now'),
      done: count,
      total: count
    })
  },
  result: z.object({
    type: z.literal('result'),
    settings: z.object({
      inputBlocks: count,
      outputBlocks: count,
      hiddenSize: count.describe('coordinates of a row'),
      hidden: protection,
      gradient: protection,
      keepsStream: z.boolean(),
      wire: z.string()
    }),
    tokens: count.describe('tokens that were attacked by their hidden states'),
    hardTokens: count.describe('tokens among them to which the prior gives less than 5 %'),
    prior: z.object({
      kind: z.enum(['ngram', 'model']),
      about: z.string(),
      recovered: figure.describe('tokens that the prior alone foretells'),
      hard: figure.nullable().describe('the same among the hard tokens'),
      crossEntropy: finiteOrNull.describe('in nats a token')
    }),
    attacks: z.array(attack).min(1).readonly().describe('on what leaves: where words are withheld, the words that are sent'),
    withheld: withheldWords.optional().describe('what can be guessed of withheld words'),
    losses: z.object({
      rounds: count,
      tokens: count.describe('held-out tokens that the losses are means of'),
      before: finiteOrNull.optional().describe('before any training, without protection; where the whole model is here'),
      unprotected: finiteOrNull.optional().describe('trained without protection; where the whole model is here'),
      deployed: finiteOrNull.optional().describe('trained as the settings are; where the whole model is here'),
      alone: finiteOrNull.describe('trained by this client alone, with the middle skipped')
    }).optional().describe('in nats a held-out token'),
    checks: z.array(z.object({
      attack: z.string(), name: z.string(), expected: z.string(), found: z.string()
    })).readonly().describe('what the audit checked of itself: all of it held'),
    verdict: z.enum(['little', 'withholds', 'leaks', 'useless', 'unknown']).describe(
      'little: hardly more is recovered than without the release, at a loss below alone; withholds: the same of the withheld words, where the others leak; useless: the loss is not below alone; unknown: hardly more is recovered, and the loss was not measured'
    ),
    meaning: z.string().describe('what the figures say, in words'),
    notices: z.array(z.string()).readonly().describe('what limits the figures'),
    seconds: z.number()
  })
})
