import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { answer, commonKnowledge, makeClinics, type Fact } from '../../../src/cli/demo/corpus.ts'
import { modelDirectory } from '../../../src/cli/demo/federation.ts'
import { greedyAnswers, loadLocalModel } from '../../../src/cli/demo/local-model.ts'
import { allFacts } from '../../../src/cli/demo/score.ts'
import { makeTokenizer } from '../../../src/cli/demo/tokenizer.ts'
import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../../src/model/families/index.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { loadTokenizer } from '../../../src/model/text/load.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

describe("the demo's model", () => {
  it('knows what is common, and of what only clinics know no more than luck gives', async () => {
    const directory = await openModelDirectory(modelDirectory)
    const tokenizer = await loadTokenizer(modelDirectory)
    const { ends, trainer } = await loadLocalModel(device, modelOf(directory.config), directory, 'weights', {
      beta1: 0.9,
      beta2: 0.99,
      epsilon: 1e-8,
      weightDecay: 0
    })
    const right = async (facts: readonly Fact[]): Promise<number> => {
      const answers = await greedyAnswers(ends, tokenizer, facts.map(({ ailment }) => ailment))
      return facts.filter(({ remedy }, i) => answers[i] === answer(remedy)).length
    }
    expect(await right(commonKnowledge())).toBe(48)
    expect(await right(allFacts(makeClinics('1')))).toBeLessThan(5)
    trainer.free()
  })
})

describe("the demo's tokenizer", () => {
  it('is the one that its text teaches', async () => {
    const written = JSON.parse(await readFile(join(modelDirectory, 'tokenizer.json'), 'utf8')) as unknown
    expect(written).toEqual(makeTokenizer())
  })

  it('has a token for every ailment and remedy, and brings any text back', async () => {
    const tokenizer = await loadTokenizer(modelDirectory)
    for (const { ailment, remedy } of [...commonKnowledge(), ...allFacts(makeClinics('1'))]) {
      expect(tokenizer.encode(` ${ailment}`, { addSpecialTokens: false })).toHaveLength(1)
      expect(tokenizer.encode(` ${remedy}`, { addSpecialTokens: false })).toHaveLength(1)
    }
    for (const text of ['Ada came in with tincough.', 'Zürich, 12 °C — naïve\n\tcafé 日本 🙂'])
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
  })
})
