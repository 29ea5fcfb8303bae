import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { CellFile, type Cell } from '../../bench/support/evidence/cells.ts'
import { OneMachine } from '../../bench/support/evidence/one-machine.ts'
import type { Plan } from '../../bench/support/evidence/plan.ts'
import type { Item, Problem } from '../../bench/support/evidence/problems.ts'
import { runCells, systemsOf } from '../../bench/support/evidence/run.ts'

const model = fileURLToPath(new URL('../../src/cli/demo/model', import.meta.url))

const places = ['Oldbridge', 'Stillwater', 'Farhill', 'Reedham', 'Castleton', 'Westwood']
const names = ['Bram', 'Cleo', 'Doran', 'Edda']

/** Illness is Ada's and journeys are Finn's. */
const items: readonly Item[] = names.flatMap((name) => places.flatMap((place): Item[] => [
  { group: 'Ada', fields: { text: `${name} from ${place} complained of marshfever.`, label: 'Ada' } },
  { group: 'Finn', fields: { text: `${name} walked from ${place} to Northquay.`, label: 'Finn' } }
]))

const problem: Problem = {
  name: 'valley',
  about: 'Sentences of the demo model',
  task: { kind: 'classify', labels: ['Ada', 'Finn'] },
  metric: 'accuracy',
  split: { by: 'field' },
  field: 'the label',
  maxTokens: 64,
  train: items.slice(0, 32),
  test: items.slice(32)
}

const plan: Plan = {
  model, clients: 2, seeds: [1], learningRate: 0.008, loraR: 8, loraAlpha: 16, wire: 'fp32', protections: [], protectedProblems: [],
  problems: { valley: { rounds: 6, sequences: 4, perClient: 12, testRecords: 12 } }
}

it('the evidence computes each cell once; federated equals centralised, and clients that know one label alone do not know the other', {
  timeout: 120_000
}, async () => {
  const work = await mkdtemp(join(tmpdir(), 'midspan-evidence-'))
  try {
    await using machine = await OneMachine.open({ model, loraR: 8, loraAlpha: 16, threads: 1 })
    const path = join(work, 'cells.jsonl')
    const begun: string[] = []
    const run = async (file: CellFile, untilMs?: number): Promise<boolean> =>
      await runCells({ file, machine, problems: [problem], work, threads: 1, ...untilMs === undefined ? {} : { untilMs } }, {
        onRound: ({ system }, round) => { if (round === 0) begun.push(system) },
        onCell: () => {}
      })
    expect(await run(await CellFile.begin(path, plan), 0)).toBe(false)
    const stopped = (await CellFile.read(path))!
    expect(stopped.cells.map(({ system }) => system)).toEqual(['base'])
    expect(await run(stopped)).toBe(true)
    const file = (await CellFile.read(path))!
    expect(await run(file)).toBe(true)
    expect(begun).toEqual(systemsOf(plan, 'valley'))
    const cell = (system: string): Cell => file.cells.find((each) => each.system === system)!
    const [base, central, federated, alone] = [cell('base'), cell('centralised'), cell('federated'), cell('alone 1')]
    expect(federated.fromCentralised).toBeLessThan(1e-4)
    expect(federated.scores).toEqual(central.scores)
    expect(federated.trainingLoss).toBeCloseTo(central.trainingLoss!, 4)
    const lossOf = ({ losses }: Cell): number => losses.reduce((sum, loss) => sum + loss, 0)
    expect(lossOf(federated)).toBeCloseTo(lossOf(central), 2)
    expect(lossOf(federated)).toBeLessThan(lossOf(base))
    expect(lossOf(federated)).toBeLessThan(lossOf(alone))
    expect(alone.scores.reduce((sum, score) => sum + score, 0)).toBe(6)
    expect(await readFile(join(work, 'valley-1-client-0.jsonl'), 'utf8')).toMatch(/^(\{.*"label":"(Ada|Finn)"\}\n){12}$/)
  } finally {
    await rm(work, { recursive: true, force: true })
  }
})
