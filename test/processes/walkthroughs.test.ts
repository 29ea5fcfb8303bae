import { cp, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { serverMemory } from '../../src/node/federation/block-memory.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { verifyCharter } from '../../src/protocols/charter/index.ts'
import { MidspanProcess, withoutProgress } from '../cli/process.ts'
import { hasNamespaces, Machines } from '../helpers/namespaces.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { readWalkthrough, type Typed } from '../helpers/walkthrough.ts'

const PAGE = fileURLToPath(new URL('../../docs/walkthroughs.md', import.meta.url))
const MODEL = 'SmolLM2-135M-Instruct'
/** Its blocks, so that the page's numbers are right. */
const BLOCKS = 30
/** What the page gives to a server that is to have this many blocks of that model; the small one of the tests takes less. */
const [SPARE_MEMORY, SPARE_BLOCKS] = ['4GiB', 16]
/** Longer than a line of the page takes, also where another server has to move first. */
const TIMEOUT_MS = 240_000

/** The longer one takes a minute, and is walked where somebody asks for it. */
const isLongAsked = process.env.MIDSPAN_TEST_WALKTHROUGHS === 'all'

describe.skipIf(!hasNamespaces())('the walk-through in docs/walkthroughs.md, on machines that are network namespaces', { timeout: TIMEOUT_MS }, () => {
  let root: string
  const processes: MidspanProcess[] = []
  let machines: Machines | undefined

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-walk-'))
    await writeTinyModel(join(root, MODEL), { num_hidden_layers: BLOCKS })
    await writeTinyData(join(root, 'notes.jsonl'), 1)
    await writeTinyData(join(root, 'heldout.jsonl'), 2)
  })
  afterEach(async () => {
    for (const one of processes.splice(0).reverse()) await one.stop('SIGKILL')
    machines?.remove()
  })
  afterAll(async () => { await rm(root, { recursive: true, force: true }) })

  it('Two machines: every command does what it is to do', async () => { await walk('Two machines') })

  it.skipIf(!isLongAsked)('Five machines: every command does what it is to do', async () => { await walk('Five machines') })

  async function walk (section: string): Promise<void> {
    const { machines: addresses, lines } = await readWalkthrough(PAGE, section)
    const own = machines = new Machines(addresses)
    const directory = (machine: string): string => join(root, section.replaceAll(' ', '-'), machine)
    for (const machine of addresses.keys()) {
      await mkdir(directory(machine), { recursive: true })
      for (const name of [MODEL, 'notes.jsonl', 'heldout.jsonl']) await cp(join(root, name), join(directory(machine), name), { recursive: true })
    }
    const daemons = new Map<string, MidspanProcess>()
    const inBackground: MidspanProcess[] = []
    let invite = ''
    let memory = 0
    let moved = ''
    const run = async ({ machine, words, inBackground: isLater }: Typed): Promise<void> => {
      if (words === undefined) {
        expect(await daemons.get(machine)!.stop('SIGINT')).toMatchObject({ code: 0 })
        return
      }
      const process = new MidspanProcess(
        words.map((word) => word === 'INVITE' ? invite : word === SPARE_MEMORY ? `${memory}B` : word),
        { MIDSPAN_THREADS: '1' },
        { through: own.on(machine), cwd: directory(machine) }
      )
      processes.push(process)
      const [command] = words
      if (command === 'daemon') {
        await process.line('Daemon is ready')
        daemons.set(machine, process)
      } else if (isLater) {
        inBackground.push(process)
      } else {
        const { code, out, err } = await process.end()
        expect([words.join(' '), code, code === 0 ? '' : withoutProgress(err)]).toEqual([words.join(' '), 0, ''])
        expect(out).not.toBe('')
        if (command === 'invite') invite = out.trim()
        if (command === 'init') memory = await memoryFor(SPARE_BLOCKS, join(directory(machine), 's'))
        if (command === 'servers') moved = out
      }
    }
    for (const typed of lines) await run(typed)
    for (const process of inBackground) expect(await process.end()).toMatchObject({ code: 0 })
    expect(lines.length).toBeGreaterThan(10)
    if (section === 'Two machines') return
    // The text at the end needed the blocks of the server that stopped.
    const [machine] = lines.filter(({ words }) => words?.[0] === 'servers').map((typed) => typed.machine).slice(-1)
    for (const limit = AbortSignal.timeout(TIMEOUT_MS); !/moves from \d+-\d+ to \d+-\d+: nobody served/.test(moved) && !limit.aborted; await delay(500))
      await run({ machine: machine!, words: ['servers', '--home', 'a'], inBackground: false })
    expect(moved).toMatch(/moves from \d+-\d+ to \d+-\d+: nobody served/)
    expect(moved).not.toContain('are served by nobody')
  }
})

/** The memory that a server needs for some blocks of a federation. */
async function memoryFor (blocks: number, home: string): Promise<number> {
  const { charter } = await verifyCharter(await readFile(homeAt(home).charter))
  const { blockBytes, fixedBytes } = serverMemory(charter, { format: 'fp32', residuals: 'saved' })
  return fixedBytes + blockBytes.slice(0, blocks).reduce((sum, bytes) => sum + bytes, 0)
}
