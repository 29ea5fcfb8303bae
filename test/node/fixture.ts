import { mkdtemp, rm } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { onTestFinished } from 'vitest'
import { startDaemon, type Daemon } from '../../src/node/daemon.ts'
import { foundFederation, type Founded, type FoundOptions } from '../../src/node/found.ts'
import { homeAt } from '../../src/node/home.ts'
import { ControlClient } from '../../src/node/control/client.ts'
import type { Roles } from '../../src/node/composition.ts'
import type { RunningRole } from '../../src/roles/context.ts'

const data = process.env.MIDSPAN_DATA ?? resolve(import.meta.dirname, '../../../shared/data')

/** A model of 260 thousand parameters and five blocks. */
const storiesPath = join(data, 'stories260K-hf')
export const hasStories = existsSync(storiesPath)

/** Members that do no work. */
const idle: RunningRole = { status: () => ({}), operations: {}, stop: async () => {} }
export const idleRoles: Roles = { server: async () => ({ ...idle, status: () => ({ blocks: [[1, 4]] }) }), client: async () => ({ ...idle, status: () => ({ blocks: [[0, 1], [4, 5]] }) }) }

/** A directory that is gone after the test. */
export async function temporaryDirectory (): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'midspan-test-'))
  onTestFinished(async () => { await rm(path, { recursive: true, force: true }) })
  return path
}

export const foundOptions: FoundOptions = {
  model: storiesPath,
  name: 'stories',
  admission: 'invite',
  allow: [],
  inputBlocks: { min: 1, max: 2 },
  outputBlocks: { min: 1, max: 1 },
  noise: 0.5,
  gradientNoise: 0,
  clip: 4,
  wire: 'fp16',
  loraR: 8,
  loraAlpha: 16,
  loraDropout: 0,
  loraTargets: ['q', 'v'],
  loraRslora: false,
  learningRate: 1e-3,
  weightDecay: 0,
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  schedule: 'constant',
  warmupRounds: 0,
  totalRounds: 100,
  maxGradientNorm: 1,
  gradientNormScope: 'party',
  accumulate: 1,
  strategy: 'client-batch',
  ends: { mode: 'shared' },
  minClients: 1,
  roundDeadline: 60_000,
  maxTokensPerClient: 4096,
  maxClients: 3,
  cacheBytes: 2 ** 20
}

/** A home with a federation founded in it. */
export async function founded (changes: Partial<FoundOptions> = {}): Promise<Founded> {
  return await foundFederation(await temporaryDirectory(), { ...foundOptions, ...changes }, AbortSignal.timeout(30_000))
}

/** A daemon on loopback, stopped after the test. */
export async function running (home: string, listen: string[] = []): Promise<Daemon> {
  const daemon = await startDaemon(home, { listen }, { roles: idleRoles })
  onTestFinished(async () => { await daemon.stop() })
  return daemon
}

export const loopback = ['/ip4/127.0.0.1/tcp/0']

/** One answer of the daemon in a home. */
export async function ask<T> (home: string, operation: string, parameters: object = {}): Promise<T> {
  return await new ControlClient(homeAt(home)).request(operation, parameters, AbortSignal.timeout(10_000)) as T
}

export async function inviteFrom (home: string, changes: object = {}): Promise<string> {
  return (await ask<{ invite: string }>(home, 'invite', { role: 'client', expiresMs: 60_000, uses: 1, ...changes })).invite
}
