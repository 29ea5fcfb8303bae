import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CellFile, type Cell } from '../../../bench/support/evidence/cells.ts'
import { pageOf } from '../../../bench/support/evidence/page.ts'
import { pictureOf } from '../../../bench/support/evidence/picture.ts'
import type { Plan } from '../../../bench/support/evidence/plan.ts'
import { resultOf, resultSchema } from '../../../bench/support/evidence/result.ts'
import { summarise } from '../../../bench/support/evidence/summary.ts'

const plan: Plan = {
  model: '/models/tiny', clients: 2, seeds: [1, 2], learningRate: 0.001, loraR: 8, loraAlpha: 16, wire: 'fp16', protections: [], protectedProblems: [],
  problems: { colours: { rounds: 3, sequences: 4, perClient: 6, testRecords: 10 } }
}

/** A cell whose first `right` of ten answers are right; a right answer has two tokens of a nat each. */
function cell (system: string, seed: number | null, right: number): Cell {
  const scores = Array.from({ length: 10 }, (_, i) => i < right ? 1 : 0)
  return {
    problem: 'colours', system, seed, scores, losses: scores.map((score) => score === 1 ? 2 : 4), tokens: scores.map(() => 2),
    trainingSeconds: 1, judgingSeconds: 1, trainingLoss: 1, ...system === 'federated' ? { fromCentralised: 1e-6, wireBytes: 2 ** 20 } : {}
  }
}

const cells = [
  cell('base', null, 2), cell('alone 1', 1, 4), cell('alone 2', 1, 6), cell('alone 1', 2, 4), cell('alone 2', 2, 6),
  cell('centralised', 1, 9), cell('centralised', 2, 8), cell('federated', 1, 9), cell('federated', 2, 7)
]

const result = resultOf({
  command: 'npm run evidence -- --seeds 1,2',
  plan,
  problems: [{
    name: 'colours', about: 'Colours', task: { kind: 'classify' }, metric: 'accuracy', split: { by: 'field' }, field: 'the colour', maxTokens: 64, train: [], test: []
  }],
  absent: ['elsewhere'],
  complete: true,
  cells
})

describe('the cells of the evidence', () => {
  let directory: string
  const path = (): string => join(directory, 'deep', 'cells.jsonl')
  beforeAll(async () => { directory = await mkdtemp(join(tmpdir(), 'midspan-cells-')) })
  afterAll(async () => { await rm(directory, { recursive: true, force: true }) })

  it('are found again, without the line that was torn, and go on after it', async () => {
    const file = await CellFile.begin(path(), plan)
    await file.add(cells[0]!)
    await file.add(cells[1]!)
    await writeFile(path(), (await readFile(path(), 'utf8')).slice(0, -20))
    const again = (await CellFile.read(path()))!
    expect([again.plan, again.cells]).toEqual([plan, [cells[0]]])
    await again.add(cells[2]!)
    const last = (await CellFile.read(path()))!
    expect(last.cells).toEqual([cells[0], cells[2]])
    expect(last.find({ problem: 'colours', system: 'base', seed: null })).toEqual(cells[0])
    expect(last.find({ problem: 'colours', system: 'base', seed: 1 })).toBeUndefined()
  })

  it('are none where there is no file, and are refused where the file is another one', async () => {
    expect(await CellFile.read(join(directory, 'none.jsonl'))).toBeUndefined()
    await writeFile(join(directory, 'other.jsonl'), '{"text": "a record"}\n')
    await expect(CellFile.read(join(directory, 'other.jsonl'))).rejects.toThrow('holds no cells of this benchmark')
  })
})

describe('the document of the evidence', () => {
  it('has the mean over seeds and clients of each kind, and differences on the same questions', () => {
    const { rows, differences, fromCentralised, otherwiseAnswered, wireBytes } = summarise('colours', cells)
    expect(rows.map(({ system, score }) => [system, score.value])).toEqual([
      ['base', 0.2], ['alone 1', 0.4], ['alone 2', 0.6], ['alone, mean', 0.5], ['federated', expect.closeTo(0.8)], ['centralised', expect.closeTo(0.85)]
    ])
    expect(rows[0]!.loss.value).toBeCloseTo((2 * 2 + 8 * 4) / 20)
    expect(rows.at(-1)!.seeds).toEqual([{ seed: 1, score: 0.9 }, { seed: 2, score: 0.8 }])
    for (const { score } of rows) expect(score.low <= score.value && score.value <= score.high).toBe(true)
    expect(differences.map(({ from, score }) => [from, score.value])).toEqual([
      ['centralised', expect.closeTo(-0.05)], ['alone, mean', expect.closeTo(0.3)], ['base', expect.closeTo(0.6)]
    ])
    expect([fromCentralised, otherwiseAnswered, wireBytes]).toEqual([1e-6, 1, 2 ** 20])
  })

  it('names its command, its seeds and what was skipped, and is rendered from the JSON of the result alone', () => {
    const page = pageOf(resultSchema.parse(JSON.parse(JSON.stringify(result))), 'evidence.svg')
    expect(page).toBe(pageOf(result, 'evidence.svg'))
    for (const text of ['npm run evidence -- --seeds 1,2', 'seeds 1, 2', 'Skipped', 'elsewhere', '| federated | 0.800 [', 'federated is better', '0.00010 %'])
      expect(page).toContain(text)
    expect(page).not.toContain('NaN')
  })

  it('says what is missing of a run that was stopped', () => {
    const page = pageOf({ ...result, complete: false, cells: cells.slice(0, 1) }, 'evidence.svg')
    expect(page).toContain('Not all cells are there')
    expect(page).toContain('| base | 0.200 [')
  })

  it('has a picture with every kind of model', () => {
    const picture = pictureOf(result)
    expect(picture).toMatch(/^<svg /)
    for (const text of ['colours: accuracy', 'base', 'alone 1', 'federated', 'centralised']) expect(picture).toContain(`>${text}</text>`)
  })
})
