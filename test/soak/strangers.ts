/**
 * Has strangers do their worst to a server while a member trains and others join: `npm run soak:strangers -- [seconds] [connections]`.
 * Prints the figures; exits with 1 where the server's memory grows by 200 MB, rounds take half as long again, or a join takes over 5 s.
 *
 * The strangers compute on the same machine. What that alone costs is measured beside it: a process that computes for the same share of the
 * time, and connects to nobody. Rounds under attack are held against rounds before it or beside that process, whichever took longer, since
 * other work may come and go on the machine. SERVER_PROFILE names a directory for a profile of the server's main thread.
 */
import { spawn, type ChildProcess } from 'node:child_process'
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
/** As Linux counts in /proc. */
const TICKS_PER_SECOND = 100

const [seconds = 60, connections = 500] = process.argv.slice(2).map(Number)
const root = await mkdtemp(join(tmpdir(), 'midspan-strangers-'))
const home = join(root, 'server')
const never = new AbortController().signal

async function residentMb (pid: number): Promise<number> {
  return Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}

/** Seconds that a process and its threads have computed so far. */
async function computedSeconds (pid: number): Promise<number> {
  // The name, in parentheses, may have spaces; of what follows it, user and system time are the twelfth and the thirteenth.
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ').at(-1)!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
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
const profile = process.env.SERVER_PROFILE
const server = new MidspanProcess(
  ['daemon', '--home', home, '--listen', '/ip4/127.0.0.1/tcp/0', '--threads', '1'],
  profile === undefined ? {} : { NODE_OPTIONS: `--cpu-prof --cpu-prof-dir=${profile}` }
)
const address = await server.line('Listening on ', 60_000)
const { pid } = server
await joinFederation(join(root, 'member'), { invite: address }, never)
const member = await TestPeer.start(join(root, 'member'))
const stop = new AbortController()
const took: number[] = []
const training = train(member, took, stop.signal)
const idleBefore = await computedSeconds(pid)
await delay(QUIET_MS)
const calm = (await computedSeconds(pid) - idleBefore) / (QUIET_MS / 1000)
const quiet = took.splice(0).slice(5)
const before = await residentMb(pid)

/** Starts another script of this folder, which gives way to all others. */
function start (name: string, ...args: string[]): ChildProcess {
  return spawn('nice', ['-n', '19', process.execPath, fileURLToPath(new URL(name, import.meta.url)), ...args], { stdio: 'inherit' })
}

const attack = start('strangers-attack.ts', address, String(seconds), String(connections), '20')
const serverBefore = await computedSeconds(pid)
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
const [attackers, served] = [await computedSeconds(attack.pid!) / seconds, (await computedSeconds(pid) - serverBefore) / seconds]
attack.kill()
const busy = took.splice(0)
const computing = start('strangers-compute.ts', String(Math.min(attackers, 1)))
await delay(QUIET_MS)
computing.kill()
const beside = took.splice(0).slice(5)
stop.abort()
await training
await member.stop()
await server.stop()
const slowdown = median(busy) / Math.max(median(quiet), median(beside))
console.log(`memory of the server: ${before.toFixed(0)} MB before, ${peak.toFixed(0)} MB at most (+${(peak - before).toFixed(0)})`)
console.log(`attackers computed ${attackers.toFixed(2)} s a second, the server ${served.toFixed(2)} s, and ${calm.toFixed(2)} s before`)
const rounds = [['before', quiet], ['under attack', busy], ['beside computing alone', beside]] as const
console.log(`rounds: ${rounds.map(([when, each]) => `${median(each).toFixed(1)} ms ${when} (${each.length})`).join(', ')}`)
console.log(`slowdown: x${(median(busy) / median(quiet)).toFixed(2)} in all, x${(median(beside) / median(quiet)).toFixed(2)} by the attackers' computing, ` +
  `x${(median(busy) / median(beside)).toFixed(2)} by what the server spends on them; x${slowdown.toFixed(2)} counts`)
console.log(`joins: ${joins.map((ms) => `${(ms / 1000).toFixed(1)} s`).join(', ')}`)
await rm(root, { recursive: true, force: true })
process.exit(peak - before < MAX_GROWTH_MB && slowdown < MAX_SLOWDOWN && Math.max(...joins) < MAX_JOIN_MS ? 0 : 1)
