/**
 * Midspan as a library: found or join a federation, run a peer in this process, and ask a peer to train, evaluate, generate and export.
 * Each peer has a home directory, and each home one daemon; the daemon may run in this process or in another one.
 *
 * ```ts
 * import { ControlClient, createDefaults, createFederation, homeAt, joinFederation, startDaemon } from 'midspan'
 *
 * const signal = AbortSignal.timeout(600_000)
 * await createFederation('server', { ...createDefaults, model: './SmolLM2-135M', name: 'ward notes' }, signal)
 * const server = await startDaemon('server', { listen: ['/ip4/127.0.0.1/tcp/4001'] })
 * const { invite } = await new ControlClient(homeAt('server')).request('invite', { role: 'client', expiresMs: 3_600_000, uses: 1 }, signal)
 *
 * await joinFederation('ward', { invite }, signal)
 * const ward = await startDaemon('ward', {})
 * const client = new ControlClient(homeAt('ward'))
 * for await (const event of client.stream('train', { data: 'notes.jsonl', rounds: 100 }, signal)) {
 *   if (event.type === 'round') console.log(event.round, event.loss)
 * }
 * const { text } = await client.request('generate', { prompt: 'The patient', maxTokens: 50 }, signal)
 * await client.request('export', { out: 'adapter' }, signal)
 * await ward.stop()
 * await server.stop()
 * ```
 *
 * Functions throw `MidspanError`, with a stable `code`, a message for people, and in `next` what they can do; an aborted signal throws its
 * reason. Hidden states and gradients are protected, sealed and checked here as they are for the command line: there is no other way out.
 *
 * @module midspan
 */
export type { EventOf, GivenParameters, OperationName, ProgressOf, ResultOf } from './api/operations.ts'
export type { MetricName, Task, TaskKind } from './api/task.ts'
export { MidspanError, UsageError } from './errors.ts'
export { comparePredictions, readPredictions, type Comparison, type PredictionLine } from './model/tasks/comparison.ts'
export { TaskError } from './model/tasks/resolved-task.ts'
export { scorePredictions, type Prediction, type Scored } from './model/tasks/scoring.ts'
export { parseTask, readTask } from './model/tasks/task-file.ts'
export { ControlClient, DaemonGoneError, NoDaemonError } from './node/control/client.ts'
export { DaemonError } from './node/control/messages.ts'
export type { DaemonStatus } from './node/daemon/daemon-status.ts'
export { startDaemon, type Daemon, type DaemonOptions } from './node/daemon/daemon.ts'
export { createDefaults } from './node/federation/create-defaults.ts'
export { createFederation, type CreatedFederation, type CreateDependencies, type CreateOptions } from './node/federation/create.ts'
export { joinAsServer, type JoinedServer, type JoinServerEvent, type JoinServerOptions } from './node/federation/join-server.ts'
export { joinFederation, type Joined, type JoinEvent, type JoinOptions } from './node/federation/join.ts'
export { changePartition, type PartitionOptions, type PartitionResult } from './node/federation/partition.ts'
export { homeAt, HomeInUseError, NoFederationError, type Home } from './node/home/home.ts'
export { HomeLockedError } from './node/home/lock.ts'
export { RefusedError } from './protocols/hello/index.ts'
