import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { GivenParameters, OperationName } from '../../../src/api/operations.ts'
import { ControlClient } from '../../../src/node/control/client.ts'
import { startDaemon, type Daemon } from '../../../src/node/daemon/daemon.ts'
import type { Roles } from '../../../src/node/daemon/roles.ts'
import { joinAsServer } from '../../../src/node/federation/join-server.ts'
import { joinFederation } from '../../../src/node/federation/join.ts'
import { homeAt } from '../../../src/node/home/home.ts'
import { startClientRole } from '../../../src/roles/client/index.ts'
import type { RoleComponents } from '../../../src/roles/components.ts'
import { startServerRole } from '../../../src/roles/server/index.ts'
import { parseSpan, type Span } from '../../../src/span.ts'
import type { Answer, HostReport, HostSettings, Order, Work } from './messages.ts'
import { sealedMessages } from './sealed-messages.ts'
import { SimulatedDevice } from './simulated-device.ts'

/** Longer than any phase of the benchmark takes. */
const LIMIT_MS = 1_200_000

/** More connections than the largest federation has. */
const MAX_CONNECTIONS = 2000

/** Where a server is crowded for a moment, a peer that joins comes again. */
const JOIN_TRIES = 20
const JOIN_PAUSE_MS = 1000

const LOOK_MS = 100

interface Hosted {
  readonly daemon: Daemon
  readonly home: string
}

/** The daemons of many homes in this process, real but for their devices. */
export class SimulatedPeers {
  readonly #role: HostSettings['role']
  readonly #roles: Roles
  readonly #hosted: Hosted[] = []
  readonly #devices: SimulatedDevice[] = []
  readonly #late = monitorEventLoopDelay({ resolution: 10 })
  #before = { cpu: process.cpuUsage(), messages: sealedMessages(), deviceMessages: 0, busyMs: [] as number[] }

  constructor ({ role, speed }: HostSettings) {
    this.#role = role
    const components: RoleComponents = {
      openDevice: async (_kind, { compute }) => {
        const device = new SimulatedDevice(speed, compute)
        this.#devices.push(device)
        return device
      }
    }
    this.#roles = {
      server: async (context) => await startServerRole(context, components),
      client: async (context) => await startClientRole(context, components)
    }
    this.#late.enable()
  }

  /** Milliseconds in which devices have been busy since their daemons started. */
  get busyMs (): number { return this.#devices.reduce((sum, { busyMs }) => sum + busyMs, 0) }

  async ask (order: Order): Promise<Answer> {
    switch (order.kind) {
      case 'start':
        await this.#start(order)
        return {}
      case 'connected':
        await this.#connected(order.servers)
        return {}
      case 'report': return { report: this.#report() }
      case 'train': {
        const { data, rounds, sequences, maxTokens } = order
        const parameters = { data, rounds, sequences, maxTokens, lossOn: 'all' }
        let behind = this.#hosted.length
        const onFirst = (): void => { if (--behind === 0) this.#report() }
        return { work: await this.#all('train', parameters, { timed: 'round', inTurn: true, onFirst }) }
      }
      case 'generate': {
        const { ids, maxTokens } = order
        // Without drafts: a prompt that comes again would be answered from the drafts of its last text.
        const parameters = { ids, maxTokens, speculate: 'off', ignoreEos: true, logprobs: 0 }
        return { work: await this.#all('generate', parameters, { timed: 'token', inTurn: false }) }
      }
    }
  }

  async stop (): Promise<void> {
    this.#late.disable()
    await Promise.all(this.#hosted.map(async ({ daemon }) => { await daemon.stop() }))
  }

  async #start ({ homes, ...joining }: Extract<Order, { kind: 'start' }>): Promise<void> {
    for (const home of homes) {
      if (joining.invite !== undefined) await this.#join(home, joining.invite, joining)
      const listen = this.#role === 'server' ? { listen: ['/ip4/127.0.0.1/tcp/0'] } : {}
      const settings = { device: 'cpu', logLevel: 'error', maxConnections: MAX_CONNECTIONS, ...listen }
      this.#hosted.push({ daemon: await startDaemon(home, settings, { roles: this.#roles }), home })
    }
  }

  async #join (home: string, invite: string, { model, blocks = '' }: { readonly model?: string, readonly blocks?: string }): Promise<void> {
    const span = parseSpan(blocks) as Span
    for (let tries = 1; ; tries++) {
      try {
        if (this.#role === 'client') await joinFederation(home, { invite }, limit())
        else await joinAsServer(home, { invite, model, blocks: span }, limit())
        return
      } catch (error) {
        if (tries === JOIN_TRIES) throw error
        await sleep(JOIN_PAUSE_MS)
      }
    }
  }

  async #connected (servers: number): Promise<void> {
    const signal = limit()
    for (const { daemon: { node } } of this.#hosted)
      while (new Set(node.getConnections().map(({ remotePeer }) => remotePeer.toString())).size < servers)
        await sleep(LOOK_MS, undefined, { signal })
  }

  #report (): HostReport {
    const { user, system } = process.cpuUsage(this.#before.cpu)
    const { rss, heapUsed } = process.memoryUsage()
    const deviceMessages = this.#devices.reduce((sum, { messages }) => sum + messages, 0)
    const report = {
      daemons: this.#hosted.length,
      cpuMs: (user + system) / 1000,
      residentBytes: rss,
      heapBytes: heapUsed,
      connections: this.#hosted.reduce((sum, { daemon }) => sum + daemon.node.getConnections().length, 0),
      messages: sealedMessages() - this.#before.messages,
      deviceMessages: deviceMessages - this.#before.deviceMessages,
      busyMs: this.#devices.map(({ busyMs }, i) => busyMs - (this.#before.busyMs[i] ?? 0)),
      lateMs: this.#late.max / 1e6
    }
    const busyMs = this.#devices.map((device) => device.busyMs)
    this.#before = { cpu: process.cpuUsage(), messages: sealedMessages(), deviceMessages, busyMs }
    this.#late.reset()
    return report
  }

  /**
   * Has every client do something, and notes when each event of a type came; calls back with the first one of each client. In turn, a
   * client begins when the one before it has begun: all of them then share the thread that reads data.
   */
  async #all (
    operation: OperationName,
    parameters: object,
    { timed, inTurn, onFirst = () => {} }: { readonly timed: string, readonly inTurn: boolean, readonly onFirst?: () => void }
  ): Promise<Work> {
    const work = { times: [] as number[][], sentBytes: 0, receivedBytes: 0 }
    const running: Array<Promise<void>> = []
    for (const { home } of this.#hosted) {
      const times: number[] = []
      work.times.push(times)
      const begun = Promise.withResolvers<void>()
      const run = (async () => {
        const given = parameters as GivenParameters<OperationName>
        let last: { readonly sentBytes?: number, readonly receivedBytes?: number } = {}
        for await (const event of new ControlClient(homeAt(home)).stream(operation, given, limit())) {
          begun.resolve()
          if ('type' in event && event.type === timed) {
            times.push(performance.timeOrigin + performance.now())
            if (times.length === 1) onFirst()
          }
          last = event as typeof last
        }
        work.sentBytes += last.sentBytes ?? 0
        work.receivedBytes += last.receivedBytes ?? 0
      })()
      running.push(run)
      if (inTurn) await Promise.race([begun.promise, run])
    }
    await Promise.all(running)
    return work
  }
}

function limit (): AbortSignal {
  return AbortSignal.timeout(LIMIT_MS)
}
