/**
 * The time of a generated token over one, two and three servers in series, each behind a network of 0 to 100 ms one way, beside the time
 * that the network alone takes: handed over from server to server, and carried by the client. What the proxy truly takes is measured with
 * single bytes; the arithmetic of a token is what it takes with no delay, handed over or carried, whichever is less. Figures are the median
 * and the fastest tenth of all tokens.
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
import { Worker, type Report } from './support/messages.ts'
import { fastest, median, printTable } from './support/print.ts'
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

/** Milliseconds from one token to the next. */
interface TokenMs {
  readonly median: number
  /** What a tenth of the tokens is below. */
  readonly fastest: number
}

interface Measured {
  readonly handed: TokenMs
  readonly carried: TokenMs
  /** What a byte takes through the proxy. */
  readonly oneWayMs: number
}

function timesOf (gaps: readonly number[]): TokenMs {
  return { median: median(gaps), fastest: fastest(gaps) }
}

/** Milliseconds of a token with each delay, over servers with these blocks. */
async function measure (directory: string, model: string, spans: readonly string[]): Promise<Measured[]> {
  const homes = spans.map((_, index) => join(directory, `${spans.length}-server-${index}`))
  const client = join(directory, `${spans.length}-client`)
  const [first, end] = spans[0]!.split('-').map(Number) as [number, number]
  const served: Served[] = []
  let own: Worker<'report', Report> | undefined
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
    const reporter = own = (await Worker.start<'report', Report>(join(import.meta.dirname, 'support/peer.ts'), ['1', 'false', 'false', client])).worker
    const control = new ControlClient(homeAt(client))
    while ((await control.request('servers', {}, limit())).servers.filter(({ connected }) => connected).length < spans.length) await delay(200)
    const results: Measured[] = []
    for (const oneWayMs of ONE_WAY_MS) {
      for (const { proxy } of served) proxy.oneWayMs = oneWayMs
      const gaps = async (handOver: boolean): Promise<number[]> => {
        await reporter.ask('report')
        await control.request('generate', { ids: PROMPT, maxTokens: tokens, handOver, speculate: 'off' }, limit())
        const { endedAt = [] } = (await reporter.ask('report')).spans.token ?? {}
        return endedAt.slice(2).map((time, index) => time - endedAt[index + 1]!) // the first is the prompt's
      }
      // The first of each opens connections and compiles. Turns alternate, so that what else the machine does meets both.
      const [handed, carried]: [number[], number[]] = [[], []]
      for (let turn = 0; turn <= TURNS; turn++) {
        const both = [await gaps(true), await gaps(false)] as const
        if (turn === 0) continue
        handed.push(...both[0])
        carried.push(...both[1])
      }
      results.push({ handed: timesOf(handed), carried: timesOf(carried), oneWayMs: await measureOneWayMs(oneWayMs) })
    }
    return results
  } finally {
    await own?.stop()
    for (const { process } of served) await process.stop()
    for (const { proxy } of served) proxy.close()
  }
}

console.log(`Generation through servers in series: ${tokens} tokens greedily, hidden ${MODEL.hidden}, ${MODEL.blocks} blocks, fp16 wire, sealed\n`)
await withModel(MODEL, async (directory, model) => {
  for (const spans of SPANS) {
    const rows: string[][] = []
    const measured = await measure(directory, model, spans)
    for (const [index, delayMs] of ONE_WAY_MS.entries()) {
      const { handed, carried, oneWayMs } = measured[index]!
      const cells = (['median', 'fastest'] as const).map((which) => {
        const [alone] = measured
        const computeMs = Math.min(alone!.handed[which], alone!.carried[which])
        const network = delayMs === 0 ? 0 : oneWayMs
        const [handedFloor, carriedFloor] = [(spans.length + 1) * network + computeMs, 2 * spans.length * network + computeMs]
        return { handed: handed[which], ratio: handed[which] / handedFloor, carried: carried[which], over: carried[which] / carriedFloor }
      })
      const text = (value: (cell: typeof cells[number]) => number, digits: number): string =>
        cells.map((cell) => value(cell).toFixed(digits)).join(' / ')
      rows.push([
        `${spans.length} in series, ${delayMs} ms`, text(({ handed: ms }) => ms, 1), text(({ ratio }) => ratio, 2),
        delayMs === 0 ? '' : BAR.toFixed(2), text(({ carried: ms }) => ms, 1), text(({ over }) => over, 2)
      ])
    }
    printTable(['route, one way', 'a token, ms', 'over its legs and compute', 'bar, at most', 'client-carried', 'over'], rows)
  }
})
