import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, onTestFinished } from 'vitest'
import type { GivenParameters, OperationName } from '../../src/api/operations.ts'
import { ControlClient } from '../../src/node/control/client.ts'
import { startDaemon, type Daemon } from '../../src/node/daemon/daemon.ts'
import type { Roles } from '../../src/node/daemon/roles.ts'
import { createFederation, type CreatedFederation, type CreateOptions } from '../../src/node/federation/create.ts'
import { homeAt } from '../../src/node/home/home.ts'
import type { RunningRole } from '../../src/roles/context.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { foundDefaults } from '../helpers/founding.ts'

/** A model of 260 thousand parameters and five blocks. */
const STORIES = 'stories260K-hf'
export const hasStories = hasData(STORIES)

/** Members that do no work. */
const idle: RunningRole = { status: () => ({}), operations: {}, stop: async () => {} }
export const idleRoles: Roles = {
  server: async () => ({ ...idle, status: () => ({ blocks: [[1, 4]] }) }),
  client: async () => ({ ...idle, status: () => ({ blocks: [[0, 1], [4, 5]] }) })
}

/** A directory that is gone after the test. */
export async function temporaryDirectory (): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'midspan-test-'))
  onTestFinished(async () => { await rm(path, { recursive: true, force: true }) })
  return path
}

export const foundOptions: CreateOptions = {
  ...foundDefaults,
  model: dataPath(STORIES),
  name: 'stories',
  admission: 'invite',
  outputBlocks: { min: 1, max: 1 },
  noise: 0.5,
  clip: 4,
  wire: 'fp16',
  loraTargets: ['q', 'v'],
  maxGradientNorm: 1,
  maxTokensPerClient: 4096,
  maxClients: 3,
  cacheBytes: 2 ** 20
}

/** Federations that tests of this file have founded, by what their options have other than `foundOptions`. */
const templates = new Map<string, Promise<CreatedFederation>>()

afterAll(async () => {
  for (const template of await Promise.allSettled(templates.values()))
    if (template.status === 'fulfilled') await rm(template.value.home, { recursive: true, force: true })
})

async function found (changes: Partial<CreateOptions>): Promise<CreatedFederation> {
  const home = await mkdtemp(join(tmpdir(), 'midspan-founded-'))
  try {
    return await createFederation(home, { ...foundOptions, ...changes }, AbortSignal.timeout(30_000))
  } catch (error) {
    await rm(home, { recursive: true, force: true })
    throw error
  }
}

/** A home with a federation founded in it. Founded alike in one file, it is the same federation: a copy of its founder's home. */
export async function founded (changes: Partial<CreateOptions> = {}): Promise<CreatedFederation> {
  const key = JSON.stringify(changes)
  const template = templates.get(key) ?? found(changes)
  templates.set(key, template)
  const home = await temporaryDirectory()
  await cp((await template).home, home, { recursive: true })
  return { ...await template, home }
}

/** A daemon on loopback, stopped after the test. */
export async function running (home: string, listen: string[] = []): Promise<Daemon> {
  const daemon = await startDaemon(home, { listen }, { roles: idleRoles })
  onTestFinished(async () => { await daemon.stop() })
  return daemon
}

export const loopback = ['/ip4/127.0.0.1/tcp/0']

/** One answer of the daemon in a home. */
export async function ask<T> (home: string, operation: OperationName, parameters: object = {}): Promise<T> {
  const given = parameters as GivenParameters<OperationName>
  return await new ControlClient(homeAt(home)).request(operation, given, AbortSignal.timeout(10_000)) as T
}

export async function inviteFrom (home: string, changes: object = {}): Promise<string> {
  return (await ask<{ invite: string }>(home, 'invite', { role: 'client', expiresMs: 60_000, uses: 1, ...changes })).invite
}
