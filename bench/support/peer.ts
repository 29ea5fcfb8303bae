/**
 * The daemons of one or more homes in a process of their own, timed. Arguments: threads of each device, whether they listen, whether their
 * event loop is watched, homes.
 */
import '../../src/node/process/v8-flags.ts'
import { CachedClientModel } from '../../src/model/generation/cached-client-model.ts'
import { Boundary } from '../../src/model/privacy/boundary.ts'
import { startDaemon } from '../../src/node/daemon/daemon.ts'
import { Sequence } from '../../src/roles/client/generation/sequence.ts'
import { AdapterState } from '../../src/roles/client/training/adapter-state.ts'
import { ClientRound } from '../../src/roles/client/training/client-round.ts'
import { LocalStage, LocalForwardPass } from '../../src/roles/middle/local-stage.ts'
import { GenerationEngine } from '../../src/roles/server/generation/engine.ts'
import { FederatedAdapters } from '../../src/roles/training/aggregation/federated-adapters.ts'
import { CoordinatorState } from '../../src/roles/training/coordinator-state.ts'
import { Stopwatch } from './stopwatch.ts'

const stopwatch = new Stopwatch()
stopwatch.time(ClientRound.prototype, 'forward', 'client input forward')
stopwatch.time(ClientRound.prototype, 'learn', 'client output, loss and back')
stopwatch.time(ClientRound.prototype, 'finish', 'client input backward')
stopwatch.time(AdapterState.prototype, 'download', 'client contribution')
stopwatch.time(AdapterState.prototype, 'step', 'client step')
stopwatch.time(AdapterState.prototype, 'commit', 'client snapshot')
stopwatch.time(LocalStage.prototype, 'forward', 'server forward')
stopwatch.time(LocalForwardPass.prototype, 'backward', 'server backward')
stopwatch.time(FederatedAdapters.prototype, 'step', 'server step')
stopwatch.time(CoordinatorState.prototype, 'commit', 'server snapshot')
stopwatch.time(Sequence.prototype, 'next', 'token')
stopwatch.time(GenerationEngine.prototype, 'compute', 'server blocks')
stopwatch.time(CachedClientModel.prototype, 'logitsAndNext', 'client ends')
stopwatch.time(Boundary.prototype, 'protect', 'protect')
stopwatch.time(Boundary.prototype, 'encode', 'encode')
stopwatch.time(Boundary.prototype, 'decode', 'decode')

const [threads, listens, watched, ...homes] = process.argv.slice(2)
if (watched === 'true') stopwatch.watchEventLoop()
const settings = { threads: Number(threads), logLevel: 'error', ...(listens === 'true' ? { listen: ['/ip4/127.0.0.1/tcp/0'] } : {}) }
const daemons = await Promise.all(homes.map(async (home) => await startDaemon(home, settings)))
process.on('message', () => {
  process.send?.(stopwatch.report())
})
process.on('disconnect', () => {
  void Promise.all(daemons.map(async (daemon) => {
    await daemon.stop()
  })).finally(() => {
    process.exit()
  })
})
process.send?.(stopwatch.report())
