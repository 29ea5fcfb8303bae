import { describe, expect, it } from 'vitest'
import { EvaluationSchedule } from '../../../../src/roles/client/training/evaluation-schedule.ts'
import type { RunEntry } from '../../../../src/roles/client/training/run-log.ts'

describe('the schedule of evaluations', () => {
  it('is due every so many rounds, once each', () => {
    const schedule = new EvaluationSchedule({ every: 3, patience: 2 })
    expect([1, 2, 3, 6].filter((done) => schedule.isDue(done))).toEqual([3, 6])
    schedule.note(3, 1)
    expect([schedule.isDue(3), schedule.lacks(3), schedule.lacks(4)]).toEqual([false, false, true])
  })

  it('ends the run after as many evaluations in a row that bring nothing as its patience allows', () => {
    const schedule = new EvaluationSchedule({ every: 1, patience: 2 })
    const noted = [4, 5, 3, 3, NaN].map((loss, i) => [schedule.note(i + 1, loss), schedule.isExhausted])
    expect(noted).toEqual([[true, false], [false, false], [true, false], [false, false], [false, true]])
    expect(schedule.best).toEqual({ done: 3, loss: 3 })
  })

  it('goes on from what was logged', () => {
    const before: RunEntry[] = [3, 4].map((loss, i) => ({ type: 'evaluation', time: '', done: i + 1, loss, tokens: 1, best: i === 0 }))
    const schedule = new EvaluationSchedule({ every: 1, patience: 2 }, before)
    expect([schedule.best, schedule.isDue(2)]).toEqual([{ done: 1, loss: 3 }, false])
    schedule.note(3, 5)
    expect(schedule.isExhausted).toBe(true)
  })
})
