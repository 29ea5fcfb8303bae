import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, it, onTestFinished } from 'vitest'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { startFederation } from './helpers.ts'

/** A text of many a's sends this pattern back again and again, and RE2 has no lookahead. */
const hostile = { type: 'Split', pattern: { Regex: '(a|a)*b(?!c)' }, behavior: 'Isolated', invert: false }

it('a founder\'s pattern that does not end holds up no daemon, and its work can be stopped', { timeout: 90_000 }, async () => {
  const model = await temporaryDirectory()
  await writeTinyModel(model)
  const path = join(model, 'tokenizer.json')
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')) as object, pre_tokenizer: hostile }))
  const federation = await startFederation({ model, clients: [{}], charter: { loraTargets: ['q'], loraR: 2 } })
  onTestFinished(async () => { await federation.stop() })
  const { peer } = federation.clients[0]!
  const data = federation.path('data.jsonl')
  await writeFile(data, `${JSON.stringify({ text: 'a'.repeat(64) })}\n`)
  for (const [operation, parameters] of [['train', { data }], ['generate', { prompt: 'a'.repeat(64) }]] as const) {
    const stop = new AbortController()
    const ended = peer.ask(operation, parameters, stop.signal).catch((error: unknown) => error)
    await delay(500)
    const askedAt = performance.now()
    for (let asked = 0; asked < 5; asked++) {
      await peer.ask('status')
      await delay(100)
    }
    // Before, each question waited until the pattern was given up, after ten seconds.
    expect(performance.now() - askedAt).toBeLessThan(4_000)
    const stoppedAt = performance.now()
    stop.abort(new Error('enough'))
    expect(await ended).toMatchObject({ message: 'enough' })
    await peer.ask('status')
    expect(performance.now() - stoppedAt).toBeLessThan(2_000)
  }
})
