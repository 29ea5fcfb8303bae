import { describe, expect, it } from 'vitest'
import { ProgressLine } from '../../../src/cli/views/progress-line.ts'
import { recordedTerminal } from '../helpers.ts'

describe('progress where there is no terminal', () => {
  it('is a line every few seconds, the first after some', () => {
    const { terminal, err } = recordedTerminal(false)
    let now = 0
    const progress = new ProgressLine(terminal, () => now)
    for (; now < 12_000; now += 1_000) progress.draw(`at ${now}`)
    progress.clear()
    expect(err.text).toBe('at 5000\nat 10000\n')
  })

  it('says what is waited for at once, and again after a while', () => {
    const { terminal, err } = recordedTerminal(false)
    let now = 0
    const progress = new ProgressLine(terminal, () => now)
    for (; now <= 65_000; now += 5_000) progress.wait('no server is connected')
    progress.wait('the server has not answered')
    expect(err.text).toBe('Waiting: no server is connected\nWaiting: no server is connected\nWaiting: the server has not answered\n')
  })
})

describe('progress on a terminal', () => {
  it('is redrawn at once', () => {
    const { terminal, err } = recordedTerminal(true)
    const progress = new ProgressLine(terminal, () => 0)
    progress.draw('one')
    progress.wait('two')
    expect(err.text).toBe('\r\u001b[Kone\r\u001b[KWaiting: two')
  })
})
