import { describe, expect, it } from 'vitest'
import { TrainView, type TrainRound } from '../../../src/cli/views/train-view.ts'
import { recordedTerminal } from '../helpers.ts'

const allUsed = { recordsRead: 1, skipped: 0, skippedLines: [], noticed: 0, notices: [] }
const round: TrainRound = {
  type: 'round',
  round: 1,
  done: 1,
  rounds: 4,
  loss: 4.56789,
  tokens: 512,
  tokensPerSecond: 123.45,
  inputTokens: 5120,
  inputTokensPerSecond: 1234.5,
  sentBytes: 2048,
  receivedBytes: 1024,
  clippedFraction: 0.125,
  leftOut: false,
  members: 3
}

describe('training as it is shown', () => {
  it('is a line a round where nobody watches, and its result alone goes to standard output', () => {
    const { terminal, out, err } = recordedTerminal(false)
    const view = new TrainView(terminal, false)
    view.show({ type: 'start', round: 0, done: 0, rounds: 4, records: 1, ...allUsed })
    view.show({ type: 'waiting', reason: 'no server is connected' })
    view.show(round)
    view.show({ type: 'done', rounds: 4, loss: 4, seconds: 75, sentBytes: 8192, receivedBytes: 4096 })
    view.end()
    expect(err.text.split('\n')).toEqual([
      'Training on 1 record: 0 of 4 rounds done so far',
      'Waiting: no server is connected',
      'Round 1/4: loss 4.5679, 1235 tokens/s (123 counted), 3 clients, sent 2.0 KiB, received 1.0 KiB, 12.5% of rows clipped',
      'Next: midspan evaluate --data HELDOUT says what training has brought on text that nobody learnt from',
      ''
    ])
    expect(out.text).toBe('4 rounds done in 1m15s: loss 4.0000, sent 8.0 KiB, received 4.0 KiB\n')
  })

  it('says so where nothing is left to do', () => {
    const { terminal, out } = recordedTerminal(false)
    new TrainView(terminal, false).show({ type: 'done', rounds: 12, loss: null, seconds: 0, sentBytes: 0, receivedBytes: 0 })
    expect(out.text).toBe('Done already: 12 rounds. Give a larger --rounds to go on\n')
  })

  it('is a bar on a terminal, within its width, with the time left', () => {
    const { terminal, err } = recordedTerminal(true)
    let now = 0
    const view = new TrainView(terminal, false, () => now)
    view.show(round)
    expect(err.text).toContain('█████░░░░░░░░░░░░░░░ 1/4  loss 4.5679')
    now = 30_000
    view.show({ ...round, done: 2 })
    const drawn = err.text
    expect(drawn).toContain('1m00s left')
    expect(drawn.replace('\r\u001b[K', '').length).toBeLessThan(100)
    view.end()
    expect(err.text).toBe('\r\u001b[K')
  })

  it('says how many records cannot be used, the first five by line', () => {
    const { terminal, err } = recordedTerminal(false)
    const skippedLines = Array.from({ length: 7 }, (_, index) => ({ line: index + 1, reason: 'is not JSON' }))
    const found = { ...allUsed, recordsRead: 40, skipped: 38, skippedLines }
    new TrainView(terminal, false).show({ type: 'start', round: 13, done: 10, rounds: 20, resumedFrom: 10, records: 2, ...found })
    const lines = err.text.split('\n')
    expect(lines.slice(0, 3)).toEqual([
      'Training on 2 records: 10 of 20 rounds done so far',
      '38 of 40 records (95%) cannot be used:',
      '  line 1: is not JSON'
    ])
    expect(lines.at(-2)).toBe('  and 33 more')
  })

  it('says which records are used otherwise than given, with the file where there are several', () => {
    const { terminal, err } = recordedTerminal(false)
    const notices = [{ file: '/b.csv', line: 4, reason: 'is cut at 9 of 12 tokens' }]
    new TrainView(terminal, false).show({ type: 'start', round: 0, done: 0, rounds: 1, records: 1, ...allUsed, noticed: 1, notices })
    expect(err.text).toContain('\n1 remark on records that are used:\n  /b.csv line 4: is cut at 9 of 12 tokens\n')
  })

  it.each([
    [0, 4, { done: 4, loss: 2 }, 'Held-out loss from 3.0000 of the base model to 2.0000, the smallest, after 4 rounds', 'midspan generate uses the adapters'],
    [7, 4, { done: 4, loss: 2 }, 'Held-out loss from 3.0000 to 2.0000, the smallest, after 4 rounds', 'midspan export --out DIR writes them'],
    [0, 4, { done: 2, loss: 2 }, 'Held-out loss from 3.0000 of the base model to 2.0000, the smallest, after 2 rounds', "the federation's have gone on since"],
    [0, 4, { done: 0, loss: 3 }, 'Held-out loss 3.0000 before the first round, and never smaller: training has brought nothing', 'smaller --learning-rate']
  ])('ends by what it achieved and what to do next, from round %i on with the best %j', (first, rounds, best, achieved, next) => {
    const { terminal, out, err } = recordedTerminal(false)
    const view = new TrainView(terminal, false)
    view.show({ type: 'start', round: first, done: 0, rounds, records: 1, ...allUsed })
    view.show({ type: 'evaluation', done: 0, loss: 3, tokens: 9, best: true })
    view.show({ type: 'done', rounds, loss: 4, seconds: 75, sentBytes: 0, receivedBytes: 0, stoppedEarly: false, best })
    expect(out.text.split('\n').at(-2)).toBe(achieved)
    expect(err.text.trimEnd().split('\n').at(-1)).toContain(next)
  })

  it('tells a client that a round went on without it', () => {
    const { terminal, err } = recordedTerminal(false)
    new TrainView(terminal, false).show({ ...round, leftOut: true })
    expect(err.text).toContain('Round 1 went on without this client')
  })

  it('is the events themselves as JSON', () => {
    const { terminal, out, err } = recordedTerminal(true)
    new TrainView(terminal, true).show(round)
    expect(JSON.parse(out.text)).toEqual(round)
    expect(err.text).toBe('')
  })
})
