/**
 * The time of a generated token over one, two and three servers in series, each behind a network of 0 to 100 ms one way, beside the time
 * that the network alone takes: handed over from server to server, and carried by the client. What the proxy truly takes is measured with
 * single bytes; the arithmetic of a token is what it takes with no delay, handed over or carried, whichever is less.
 * Run: node bench/route.ts [tokens, 32]
 */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { ControlClient } from '../src/node/control/client.ts'
import { createFederation } from '../src/node/federation/create.ts'
import { joinFederation } from '../src/node/federation/join.ts'
import { homeAt } from '../src/node/home/home.ts'
import { midspan, MidspanProcess } from '../test/cli/process.ts'
import { freePort, measureOneWayMs, startDelayProxy, type DelayProxy } from './support/delay-proxy.ts'
import { founding, withModel } from './support/federation.ts'
import { median, printTable } from './support/print.ts'
import type { ModelSize } from './support/random-model.ts'

/** A token may take so many times what the network and the arithmetic take. */
const BAR = 1.1
const ONE_WAY_MS = [0, 10, 50, 100]
const MODEL: ModelSize = { hidden: 512, blocks: 8, intermediate: 1376, heads: 8, kvHeads: 8, vocabulary: 4096, positions: 512 }
const PROMPT = Array.from({ length: 32 }, (_, i) => i + 3)
/** The blocks of each server, by their number. */
const SPANS: ReadonlyArray<readonly string[]> = [['1-7'], ['1-4', '4-7'], ['1-3', '3-5', '5-7']]
const START_MS = 120_000
const TURNS = 3

const [tokens = 32] = process.argv.slice(2).map(Number)
const limit = (): AbortSignal => AbortSignal.timeout(10 * 60_000)

interface Served {
  readonly process: MidspanProcess
  readonly proxy: DelayProxy
}

/** Starts a server's daemon behind a proxy, at whose address others find it. */
async function serve (home: string): Promise<Served> {
  const port = await freePort()
  const proxy = await startDelayProxy(port)
  const addresses = ['--listen', `/ip4/127.0.0.1/tcp/${port}`, '--announce', `/ip4/127.0.0.1/tcp/${proxy.port}`]
  const process = new MidspanProcess(['daemon', '--home', home, ...addresses, '--threads', '1'])
  await process.line('Daemon is ready', START_MS)
  return { process, proxy }
}

async function invite (home: string, role: string): Promise<string> {
  return (await new ControlClient(homeAt(home)).request('invite', { role: role as 'client', expiresMs: 3_600_000, uses: 1 }, limit())).invite
}

/** Milliseconds of a token, and of one way through the proxy. */
interface Measured {
  readonly handed: number
  readonly carried: number
  readonly oneWay: number
}

/** Milliseconds of a token with each delay, over servers with these blocks. */
async function measure (directory: string, model: string, spans: readonly string[]): Promise<Measured[]> {
  const homes = spans.map((_, index) => join(directory, `${spans.length}-server-${index}`))
  const client = join(directory, `${spans.length}-client`)
  const [first, end] = spans[0]!.split('-').map(Number) as [number, number]
  const served: Served[] = []
  let own: MidspanProcess | undefined
  try {
    await createFederation(homes[0]!, {
      ...founding, model, strategy: 'client-batch', wire: 'fp16', loraTargets: ['q', 'v'], minClients: 1, blocks: { first, end }
    }, limit())
    served.push(await serve(homes[0]!))
    for (const [index, home] of homes.entries()) {
      if (index === 0) continue
      const { code, err } = await midspan(['join', '--home', home, await invite(homes[0]!, 'server'), '--blocks', spans[index]!, '--model', model])
      if (code !== 0) throw new Error(err)
      served.push(await serve(home))
    }
    await joinFederation(client, { invite: await invite(homes[0]!, 'client') }, limit())
    own = new MidspanProcess(['daemon', '--home', client, '--threads', '1'])
    await own.line('Daemon is ready', START_MS)
    const control = new ControlClient(homeAt(client))
    while ((await control.request('servers', {}, limit())).servers.filter(({ connected }) => connected).length < spans.length) await delay(200)
    const results: Measured[] = []
    for (const oneWayMs of ONE_WAY_MS) {
      for (const { proxy } of served) proxy.oneWayMs = oneWayMs
      const ms = async (handOver: boolean): Promise<number> => {
        const { decodeSeconds } = await control.request('generate', { ids: PROMPT, maxTokens: tokens, handOver }, limit())
        return decodeSeconds * 1000 / (tokens - 1)
      }
      // The first of each opens connections and compiles. Turns alternate, so that what else the machine does meets both.
      const [handed, carried]: [number[], number[]] = [[], []]
      for (let turn = 0; turn <= TURNS; turn++) {
        const both = [await ms(true), await ms(false)] as const
        if (turn === 0) continue
        handed.push(both[0])
        carried.push(both[1])
      }
      results.push({ handed: median(handed), carried: median(carried), oneWay: await measureOneWayMs(oneWayMs) })
    }
    return results
  } finally {
    for (const process of [own, ...served.map(({ process }) => process)]) await process?.stop()
    for (const { proxy } of served) proxy.close()
  }
}

console.log(`Generation through servers in series: ${tokens} tokens greedily, hidden ${MODEL.hidden}, ${MODEL.blocks} blocks, fp16 wire, sealed\n`)
await withModel(MODEL, async (directory, model) => {
  const rows: string[][] = []
  for (const spans of SPANS) {
    const measured = await measure(directory, model, spans)
    const computeMs = Math.min(measured[0]!.handed, measured[0]!.carried)
    for (const [index, oneWayMs] of ONE_WAY_MS.entries()) {
      const { handed, carried, oneWay } = measured[index]!
      const network = index === 0 ? 0 : oneWay
      const handedFloor = (spans.length + 1) * network + computeMs
      const carriedFloor = 2 * spans.length * network + computeMs
      rows.push([
        `${spans.length} in series, ${oneWayMs} ms`, handed.toFixed(1), handedFloor.toFixed(1), (handed / handedFloor).toFixed(2),
        index === 0 ? '' : BAR.toFixed(2), carried.toFixed(1), carriedFloor.toFixed(1), (carried / carriedFloor).toFixed(2)
      ])
    }
  }
  printTable(['route, one way', 'a token, ms', 'floor', 'over it', 'bar, at most', 'client-carried', 'floor', 'over it'], rows)
})
