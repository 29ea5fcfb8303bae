import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SeededRandom } from '../../src/model/random.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { readRuns } from '../../src/roles/client/training/run-log.ts'
import { run } from '../cli/helpers.ts'
import { MidspanProcess } from '../cli/process.ts'

const model = fileURLToPath(new URL('../../src/cli/demo/model', import.meta.url))

/** A busy machine takes long to start a process. */

const names = ['Bram', 'Cleo', 'Doran', 'Edda', 'Greta', 'Hugo'] as const
const places = ['Oldbridge', 'Stillwater', 'Farhill', 'Reedham', 'Castleton', 'Westwood'] as const

/** A table of two columns: sentences of the demo model's valley, and who answers them. Illness is Ada's, and journeys are Finn's. */
function table (rows: number, seed: string): string {
  const random = new SeededRandom(seed)
  const lines = Array.from({ length: rows }, (_, i) => {
    const [name, other] = [names[random.below(names.length)]!, names[random.below(names.length)]!]
    const [place, further] = [places[random.below(places.length)]!, places[random.below(places.length)]!]
    return i % 2 === 0
      ? `${name} from ${place} complained of ${['marshfever', 'tincough', 'emberitch'][random.below(3)]!}.,Ada`
      : `${name} and ${other} walked from ${place} to ${further}.,Finn`
  })
  return `text,label\n${lines.join('\n')}\n`
}

describe("a newcomer's table of two columns", { timeout: 180_000 }, () => {
  let root: string
  const daemons: MidspanProcess[] = []
  const home = (name: string): string => join(root, name)
  const start = async (name: string, ...args: string[]): Promise<MidspanProcess> => {
    const daemon = new MidspanProcess(['daemon', '--home', home(name), '--threads', '1', ...args])
    daemons.push(daemon)
    await daemon.line('Daemon is ready')
    return daemon
  }

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-newcomer-'))
    await writeFile(home('train.csv'), table(48, 'train'))
    await writeFile(home('heldout.csv'), table(24, 'held out'))
  })
  afterAll(async () => {
    for (const daemon of daemons.reverse()) await daemon.stop()
    await rm(root, { recursive: true, force: true })
  })

  it('becomes a trained, evaluated and exported classifier', async () => {
    const founded = await run([
      'init', '--home', home('s'), '--model', model, '--name', 'newcomer', '--admission', 'open', '--learning-rate', '0.008',
      '--lora-targets', 'q,v,gate,up,down', '--max-tokens-per-client', '1024'
    ])
    expect(founded.code).toBe(0)
    const address = await (await start('s', '--listen', '/ip4/127.0.0.1/tcp/0')).line('Listening on ')
    expect(await run(['join', address, '--home', home('a')])).toMatchObject({ code: 0 })
    await start('a')
    const evaluate = ['evaluate', '--home', home('a'), '--data', home('heldout.csv'), '--task', 'classify', '--predictions']
    expect(await run([...evaluate, home('before.jsonl')])).toMatchObject({ code: 0 })
    const trained = await run([
      'train', '--home', home('a'), '--data', home('train.csv'), '--task', 'classify', '--epochs', '8', '--max-tokens', '64',
      '--eval-data', home('heldout.csv'), '--eval-every', '6'
    ])
    expect([trained.code, trained.err]).toEqual([0, expect.stringContaining('the adapters are kept in')])
    const after = await run([...evaluate, home('after.jsonl'), '--json'])
    const { metrics, baselines } = JSON.parse(after.out) as {
      metrics: ReadonlyArray<{ metric: string, value: number }>, baselines: ReadonlyArray<{ metrics: ReadonlyArray<{ value: number }> }>
    }
    expect(baselines[0]!.metrics[0]!.value).toBe(0.5)
    expect(metrics[0]).toMatchObject({ metric: 'accuracy' })
    expect(metrics[0]!.value).toBeGreaterThan(0.9)
    // As if the evaluation had been cut off in the middle of its tenth line.
    const lines = await readFile(home('after.jsonl'), 'utf8')
    await writeFile(home('after.jsonl'), lines.split('\n').slice(0, 10).join('\n').slice(0, -5))
    const resumed = await run([...evaluate, home('after.jsonl'), '--resume', '--base', home('before.jsonl'), '--json'])
    expect(JSON.parse(resumed.out)).toMatchObject({ metrics, base: { records: 24, metrics: [{ metric: 'accuracy', better: 'b' }, { metric: 'macro-f1' }] } })
    const compared = await run(['evaluate', '--compare', home('before.jsonl'), home('after.jsonl')])
    expect(compared.out).toMatch(/^24 records answered[^]+accuracy .+ the second is better/)
    expect(await run(['export', '--home', home('a'), '--out', home('adapter')])).toMatchObject({ code: 0 })

    const [logged] = await readRuns(homeAt(home('a')).runs)
    expect(logged!.entries.filter(({ type }) => type === 'round')).toHaveLength(24)
    expect(JSON.parse(await readFile(join(logged!.directory, 'best', 'adapter_config.json'), 'utf8'))).toMatchObject({ peft_type: 'LORA' })
    expect((await run(['runs', '--home', home('a')])).out).toMatch(/rounds +loss[^]+24 +[▁▂▃▄▅▆▇█]{20}/)
  })
})
