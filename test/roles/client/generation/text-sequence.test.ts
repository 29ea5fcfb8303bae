import { describe, expect, it } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import { canResume, hasCausalStates, legsSince } from '../../../../src/roles/client/generation/text-sequence.ts'
import type { LegStatistics } from '../../../../src/roles/middle/route-statistics.ts'
import { readChatGLMGolden } from '../../../helpers/chatglm.ts'
import { readModelGolden } from '../../../helpers/golden.ts'

const PROMPT = [1, 2, 3, 4]

describe('a sequence of another text', () => {
  it('is of use where states follow from the tokens before them alone', () => {
    expect(hasCausalStates(modelOf(readModelGolden('llama/gqa').config))).toBe(true)
    expect(hasCausalStates(modelOf(readModelGolden('llama/rope-dynamic').config))).toBe(false)
    expect(hasCausalStates(modelOf(readChatGLMGolden('130528').config))).toBe(false)
  })

  it('goes on where at least half of it is the prompt', () => {
    const model = modelOf(readModelGolden('llama/gqa').config)
    expect([3, 6, 7].map((length) => canResume(model, PROMPT, length, 3))).toEqual([true, true, false])
    expect(canResume(model, PROMPT, 8, 4)).toBe(true)
  })

  it('only grows where blocks have windows', () => {
    const model = modelOf(readModelGolden('mistral/window').config)
    expect([[3, 3], [4, 3], [4, 4]].map(([length, common]) => canResume(model, PROMPT, length!, common!))).toEqual([true, false, false])
  })
})

it('what each server did for a text is what it did besides what it had done before', () => {
  const leg = (server: string, first: number, factor: number): LegStatistics => ({
    server, span: { first, end: 3 }, tokens: 5 * factor, replayedTokens: factor, answers: 2 * factor, ms: 10 * factor, handsOver: false,
    sentBytes: 100 * factor, receivedBytes: 50 * factor
  })
  expect(legsSince([leg('a', 1, 3), leg('b', 2, 1), leg('a', 2, 1)], [leg('a', 1, 1)])).toEqual([leg('a', 1, 2), leg('b', 2, 1), leg('a', 2, 1)])
})
