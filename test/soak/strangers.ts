/**
 * Has strangers do their worst to a server while a member trains and others join: `npm run soak:strangers -- [seconds] [connections]`.
 * Prints the figures; exits with 1 where the server's memory grows by 200 MB, rounds take half as long again, or a join takes over 5 s.
 */
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createFederation } from '../../src/node/federation/create.ts'
import { joinFederation } from '../../src/node/federation/join.ts'
import { MidspanProcess } from '../cli/process.ts'
import { foundDefaults } from '../helpers/founding.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { TestPeer } from '../roles/helpers.ts'

const MAX_GROWTH_MB = 200
const MAX_SLOWDOWN = 1.5
const MAX_JOIN_MS = 5_000
const QUIET_MS = 15_000
const JOIN_EVERY_MS = 5_000

const [seconds = 60, connections = 500] = process.argv.slice(2).map(Number)
const root = await mkdtemp(join(tmpdir(), 'midspan-strangers-'))
const home = join(root, 'server')
const never = new AbortController().signal

async function residentMb (pid: number): Promise<number> {
  return Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}

/** Milliseconds that each round of a training took, as they come. */
async function train (peer: TestPeer, took: number[], signal: AbortSignal): Promise<void> {
  let lastMs = performance.now()
  try {
    for await (const event of peer.events('train', { data: join(root, 'data.jsonl'), rounds: 1e6, sequences: 1, packing: 'padded' }, signal)) {
      if ((event as { type: string }).type !== 'round') continue
      took.push(performance.now() - lastMs)
      lastMs = performance.now()
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
}

function median (values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN
}

await writeTinyModel(join(root, 'model'))
await writeTinyData(join(root, 'data.jsonl'), 1)
await createFederation(home, { ...foundDefaults, model: join(root, 'model'), maxClients: 500, loraR: 2, loraTargets: ['q', 'v'] }, never)
const server = new MidspanProcess(['daemon', '--home', home, '--listen', '/ip4/127.0.0.1/tcp/0', '--threads', '1'])
const address = await server.line('Listening on ', 60_000)
const { pid } = server
await joinFederation(join(root, 'member'), { invite: address }, never)
const member = await TestPeer.start(join(root, 'member'))
const stop = new AbortController()
const took: number[] = []
const training = train(member, took, stop.signal)
await delay(QUIET_MS)
const quiet = took.splice(0).slice(5)
const before = await residentMb(pid)

const script = fileURLToPath(new URL('strangers-attack.ts', import.meta.url))
const attack = spawn('nice', ['-n', '19', process.execPath, script, address, String(seconds), String(connections), '20'], { stdio: 'inherit' })
const joins: number[] = []
let peak = before
const endMs = Date.now() + seconds * 1000
const watch = setInterval(() => { void residentMb(pid).then((mb) => { peak = Math.max(peak, mb) }, () => {}) }, 250)
for (let count = 0; Date.now() < endMs; count++) {
  const startMs = performance.now()
  await joinFederation(join(root, `joiner-${count}`), { invite: address }, AbortSignal.timeout(30_000)).then(
    () => { joins.push(performance.now() - startMs) },
    (error: unknown) => {
      console.log(`a join failed: ${String(error)}`)
      joins.push(Infinity)
    }
  )
  await delay(JOIN_EVERY_MS)
}
clearInterval(watch)
attack.kill()
const busy = took.splice(0)
stop.abort()
await training
await member.stop()
await server.stop()
const slowdown = median(busy) / median(quiet)
console.log(`memory of the server: ${before.toFixed(0)} MB before, ${peak.toFixed(0)} MB at most (+${(peak - before).toFixed(0)})`)
console.log(`rounds: ${median(quiet).toFixed(1)} ms before (${quiet.length}), ${median(busy).toFixed(1)} ms meanwhile (${busy.length}), x${slowdown.toFixed(2)}`)
console.log(`joins: ${joins.map((ms) => `${(ms / 1000).toFixed(1)} s`).join(', ')}`)
await rm(root, { recursive: true, force: true })
process.exit(peak - before < MAX_GROWTH_MB && slowdown < MAX_SLOWDOWN && Math.max(...joins) < MAX_JOIN_MS ? 0 : 1)
