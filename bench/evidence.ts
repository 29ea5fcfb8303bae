/**
 * Whether federating pays: the base model, each client alone, the clients federated and all data on one machine, over data sets, splits and
 * seeds. Writes docs/evidence.json, docs/evidence.svg and docs/evidence.md. A run that was stopped goes on where it was.
 * Run: npm run evidence -- [--minutes 60] [--model DIR] [--problems banking77,dream,dialogsum] [--seeds 1,2,3] [--clients 2], or --help
 */
import '../src/node/process/v8-flags.ts'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { isDeepStrictEqual, parseArgs } from 'node:util'
import { z } from 'zod'
import { createDefaults } from '../src/node/federation/create-defaults.ts'
import { restartWithAllocatorSettings } from '../src/node/process/allocator.ts'
import { chatModel } from './support/chat-model.ts'
import { CellFile, type Cell, type CellKey } from './support/evidence/cells.ts'
import { OneMachine } from './support/evidence/one-machine.ts'
import { pageOf } from './support/evidence/page.ts'
import { pictureOf } from './support/evidence/picture.ts'
import { fitPlan, planSchema, type Plan } from './support/evidence/plan.ts'
import { problemNames, readProblems } from './support/evidence/problems.ts'
import { parseProtections } from './support/evidence/protections.ts'
import { resultOf, resultSchema, type Result } from './support/evidence/result.ts'
import { runCells } from './support/evidence/run.ts'
import { measure } from './support/evidence/speeds.ts'
import { summarise } from './support/evidence/summary.ts'

const root = join(import.meta.dirname, '..')

const HELP = `npm run evidence -- [options]

  --minutes N       Minutes that the run may take: rounds and records follow from it and from the speed of this machine (60)
  --model DIR       Model directory (SmolLM2-135M-Instruct in the cache)
  --problems LIST   Data sets (${problemNames.join(',')})
  --seeds LIST      Seeds of splits, orders and initial adapters (1,2,3)
  --clients N       Clients (2)
  --learning-rate X Learning rate (${createDefaults.learningRate})
  --wire TYPE       fp32, fp16 or int8 (${createDefaults.wire})
  --protections LIST  Federations beside the one without, such as noise:0.1,withhold:capitals, and what each lets leak (none)
  --protect LIST    Data sets that have these federations (the first one)
  --cells FILE      Where finished cells are kept, a line each (.evidence/cells.jsonl)
  --out DIR         Where the document goes (docs)
  --fresh           Forgets the finished cells
  --render          Renders the document from its JSON file, and computes nothing`

const { values: options } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    model: { type: 'string' },
    problems: { type: 'string', default: problemNames.join(',') },
    seeds: { type: 'string', default: '1,2,3' },
    clients: { type: 'string', default: '2' },
    'learning-rate': { type: 'string', default: String(createDefaults.learningRate) },
    wire: { type: 'string', default: createDefaults.wire },
    protections: { type: 'string', default: '' },
    protect: { type: 'string' },
    cells: { type: 'string', default: join(root, '.evidence', 'cells.jsonl') },
    out: { type: 'string', default: join(root, 'docs') },
    fresh: { type: 'boolean', default: false },
    render: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})

const fileOf = (ending: string): string => join(options.out, `evidence.${ending}`)
const files = { json: fileOf('json'), page: fileOf('md'), picture: fileOf('svg') }

async function write (result: Result): Promise<void> {
  await mkdir(options.out, { recursive: true })
  await writeFile(files.json, `${JSON.stringify(result)}\n`)
  await render(result)
}

async function render (result: Result): Promise<void> {
  await writeFile(files.picture, pictureOf(result))
  await writeFile(files.page, pageOf(result, 'evidence.svg'))
  console.log(`written: ${files.page}`)
}

const nameOf = ({ problem, system, seed }: CellKey): string => `${problem}, ${system}${seed === null ? '' : `, seed ${seed}`}`

function showCell (cell: Cell): void {
  const { value } = summarise(cell.problem, [cell]).rows[0]!.score
  console.log(`${nameOf(cell)}: ${value.toFixed(3)} (training ${cell.trainingSeconds} s, judging ${cell.judgingSeconds} s)`)
}

async function main (): Promise<void> {
  const startedAtMs = Date.now()
  const minutes = Number(options.minutes)
  const model = options.model ?? chatModel()
  const seeds = options.seeds.split(',').map(Number)
  const clients = Number(options.clients)
  const { problems, absent } = await readProblems(options.problems.split(','))
  for (const name of absent) console.log(`skipped: the data set ${name} is not on this machine (MIDSPAN_TEST_DATA)`)
  if (problems.length === 0) return
  const threads = availableParallelism()
  const work = join(options.cells, '..', 'work')
  const fixed = {
    model, clients, seeds, loraR: createDefaults.loraR, loraAlpha: createDefaults.loraAlpha,
    learningRate: Number(options['learning-rate']), wire: options.wire as Plan['wire'],
    protections: parseProtections(options.protections),
    protectedProblems: options.protections === '' ? [] : options.protect?.split(',') ?? [problems[0]!.name]
  }
  const valid = planSchema.omit({ problems: true }).safeParse(fixed)
  if (!valid.success || !(minutes > 0)) {
    console.error(`the options cannot be used: ${valid.success ? 'minutes: more than 0' : z.prettifyError(valid.error).replaceAll('\n', ' ')} (see --help)`)
    process.exitCode = 2
    return
  }
  // Homes and data of a run that was killed.
  await rm(work, { recursive: true, force: true })
  await using machine = await OneMachine.open({ ...fixed, threads })
  let file = options.fresh ? undefined : await CellFile.read(options.cells)
  if (file === undefined) {
    const federationsOf = (name: string): number => 1 + (fixed.protectedProblems.includes(name) ? fixed.protections.length : 0)
    const { speeds, costs } = await measure(machine, model, problems, federationsOf, work)
    const { training, scoring, generation } = speeds
    console.log(`tokens a second: training ${training.toFixed(0)}, scoring ${scoring.toFixed(0)}, generation ${generation.toFixed(1)}`)
    const fitted = fitPlan({ minutes, clients, seeds: seeds.length }, speeds, costs)
    file = await CellFile.begin(options.cells, { ...fixed, problems: fitted.problems })
    console.log(`about ${Math.round(fitted.seconds / 60)} minutes for all cells`)
  } else {
    // Protected federations may be added to a run that had none.
    const { problems: sizes, protections: _, protectedProblems: __, ...kept } = file.plan
    const { protections, protectedProblems, ...same } = fixed
    const asked = { ...same, names: problems.map(({ name }) => name) }
    const begun = { ...kept, names: problems.map(({ name }) => name).filter((name) => sizes[name] !== undefined) }
    if (!isDeepStrictEqual(asked, begun))
      throw new Error(`${options.cells} was begun with other options: give these again, name another file with --cells, or begin anew with --fresh`)
    console.log(`going on after ${file.cells.length} cells`)
    if (protections.length > 0) file = await file.extend({ ...file.plan, protections, protectedProblems })
  }
  console.log(JSON.stringify(file.plan))
  const complete = await runCells({ file, machine, problems, work, threads, untilMs: startedAtMs + minutes * 60_000 }, {
    onRound: (key, round, loss) => {
      if (process.stdout.isTTY) process.stdout.write(`\r${nameOf(key)}: round ${round + 1}, loss ${loss.toFixed(3)} `)
    },
    onCell: (cell) => {
      if (process.stdout.isTTY) process.stdout.write('\r')
      showCell(cell)
    }
  })
  await rm(work, { recursive: true, force: true })
  const given = process.argv.slice(2).filter((word) => word !== '--fresh')
  const command = ['npm run evidence', ...given.length === 0 ? [] : ['--', ...given]].join(' ')
  await write(resultOf({ command, plan: file.plan, problems, absent, complete, cells: file.cells }))
  console.log(`${complete ? 'all cells are there' : 'the time is up: the same command goes on'}; ${Math.round((Date.now() - startedAtMs) / 1000)} s`)
}

restartWithAllocatorSettings()
if (options.help) console.log(HELP)
else if (options.render) await render(resultSchema.parse(JSON.parse(await readFile(files.json, 'utf8'))))
else await main()
