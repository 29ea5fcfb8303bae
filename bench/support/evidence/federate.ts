import { join } from 'node:path'
import type { AuditFigure } from '../../../src/api/audit.ts'
import type { GivenParameters } from '../../../src/api/operations.ts'
import { readPeftAdapter } from '../../../src/model/checkpoint/peft.ts'
import { ControlClient } from '../../../src/node/control/client.ts'
import { startDaemon, type Daemon } from '../../../src/node/daemon/daemon.ts'
import { createDefaults } from '../../../src/node/federation/create-defaults.ts'
import { createFederation } from '../../../src/node/federation/create.ts'
import { joinFederation } from '../../../src/node/federation/join.ts'
import { homeAt } from '../../../src/node/home/home.ts'
import { adapterTensors } from '../../../test/roles/helpers.ts'
import type { Cell, Leak } from './cells.ts'
import { charterSeed, type Trained } from './one-machine.ts'
import type { Plan, ProblemPlan } from './plan.ts'
import type { Problem } from './problems.ts'
import { UNPROTECTED, type Protection } from './protections.ts'

type Planned = Pick<Plan, 'model' | 'learningRate' | 'loraR' | 'loraAlpha' | 'wire'> & Pick<ProblemPlan, 'rounds' | 'sequences'>

export interface FederatedSettings extends Planned {
  readonly seed: number
  readonly protection: Protection
  readonly problem: Pick<Problem, 'task' | 'maxTokens'>
  /** Of the server's device; clients compute with one each, at the same time. */
  readonly threads: number
}

type Leaks = Pick<Cell, 'leak' | 'unprotectedLeak'>

/** Nothing here waits for people: what takes longer has hung. */
const LIMIT_MS = 3_600_000
/** Tokens that an audit attacks: a standard error of three points in the hundred at most. */
const AUDITED_TOKENS = 300

/** A round of a busy machine. */
const ROUND_DEADLINE_MS = 600_000

/**
 * Trains fresh adapters in a federation of real peers on loopback, with a data file each, and exports what came out. The clients keep one
 * block at either end, as `midspan init` has it. `root` is an empty directory.
 */
export async function federate (
  root: string,
  { model, seed, protection, problem: { task, maxTokens }, rounds, sequences, threads, ...settings }: FederatedSettings,
  shares: readonly string[],
  onRound: (round: number, loss: number) => void = () => {}
): Promise<Trained & { readonly wireBytes: number } & Leaks> {
  const signal = AbortSignal.timeout(LIMIT_MS)
  const { noise, withhold } = protection
  const data = { task, sequences, maxTokens, packing: 'padded', seed, ...withhold === undefined ? {} : { withhold } } as const
  const daemons: Daemon[] = []
  const start = async (home: string, options: object): Promise<ControlClient> => {
    daemons.push(await startDaemon(home, { logLevel: 'error', ...options }, { signal }))
    return new ControlClient(homeAt(home))
  }
  try {
    await createFederation(join(root, 'server'), {
      ...createDefaults,
      ...settings,
      model,
      name: 'evidence',
      admission: 'open',
      noise,
      gradientNoise: noise,
      clip: noise === 0 ? 'none' : 'auto',
      seed: charterSeed(seed),
      minClients: shares.length,
      maxTokensPerClient: sequences * maxTokens,
      roundDeadline: ROUND_DEADLINE_MS
    }, signal)
    const server = await start(join(root, 'server'), { listen: ['/ip4/127.0.0.1/tcp/0'], threads })
    const { addresses: [invite = ''] } = await server.request('status', {}, signal)
    const clients: ControlClient[] = []
    for (const [i] of shares.entries()) {
      const home = join(root, `client-${i}`)
      await joinFederation(home, { invite }, signal)
      clients.push(await start(home, { threads: 1 }))
    }
    const figures = await Promise.all(clients.map(async (client, i) => {
      const parameters = { ...data, data: shares[i]!, rounds } as GivenParameters<'train'>
      const own = { loss: NaN, counted: 0, tokens: 0, wireBytes: 0 }
      for await (const event of client.stream('train', parameters, signal)) {
        if (event.type !== 'round') continue
        if (event.leftOut) throw new Error('a client missed the deadline of a round: the machine is too busy')
        Object.assign(own, { loss: event.loss ?? NaN, counted: event.tokens, tokens: own.tokens + event.inputTokens })
        own.wireBytes += event.sentBytes + event.receivedBytes
        if (i === 0) onRound(event.done - 1, own.loss)
      }
      return own
    }))
    const out = join(root, 'adapter')
    for await (const _ of clients[0]!.stream('export', { out, force: true }, signal));
    const counted = figures.reduce((sum, own) => sum + own.counted, 0)
    return {
      adapter: adapterTensors(await readPeftAdapter(out)),
      loss: figures.reduce((sum, own) => sum + own.loss * own.counted, 0) / counted,
      tokens: figures.reduce((sum, own) => sum + own.tokens, 0),
      wireBytes: figures[0]!.wireBytes,
      ...protection === UNPROTECTED ? {} : await leaksOf(clients[0]!, { ...data, data: shares[0]! }, signal)
    }
  } finally {
    for (const daemon of daemons.reverse()) await daemon.stop()
  }
}

/** Has a client attack what its settings let leave of its data. */
async function leaksOf (client: ControlClient, data: object, signal: AbortSignal): Promise<Leaks> {
  const parameters = { ...data, tokens: AUDITED_TOKENS, rounds: 0 } as GivenParameters<'audit'>
  for await (const event of client.stream('audit', parameters, signal)) {
    if (event.type !== 'result') continue
    const { attacks: [oracle], withheld, tokens } = event
    const { deployed, curve: [bare] } = oracle!
    const leak = (recovered: AuditFigure, leak: AuditFigure): Leak => ({
      recovered: recovered.value,
      recoveredError: recovered.error,
      leak: leak.value,
      leakError: leak.error,
      withheldShare: withheld?.share ?? 0,
      tokens
    })
    if (withheld !== undefined) return { leak: leak(withheld.whole.recovered, withheld.whole.leak) }
    return {
      leak: leak(deployed.withPrior, deployed.leak),
      ...bare === undefined ? {} : { unprotectedLeak: leak(bare.withPrior, bare.leak) }
    }
  }
  throw new Error('the audit ended without a report')
}
