import type { ResultOf } from '../../api/operations.ts'
import type { Daemon } from '../../node/daemon/daemon.ts'
import { command } from '../command.ts'
import { endSpans } from '../format.ts'
import { grouped, optional, repeated } from '../option.ts'
import { compute, device, httpHost, keepStream, residuals, threads, weights } from '../shared-options.ts'
import type { Terminal } from '../terminal.ts'
import { address, choice, duration, httpAddress, integer, peerId, share } from '../values.ts'
import { introduceHttp } from '../views/http-view.ts'
import { ProgressLine } from '../views/progress-line.ts'

/** A start that takes longer says what it waits for. */
const QUIET_MS = 5_000

export const daemon = command({
  name: 'daemon',
  withoutReader: 'goes on',
  group: 'Run',
  summary: 'Run this peer until it is stopped',
  details:
    `Prints who it is, what it serves on which device, then a line "Listening on MULTIADDR" for each address and, last, "Daemon is ready".
SIGINT, SIGTERM or the end of its terminal (SIGHUP) stop it cleanly; a second one ends it at once. Started with nohup, or with no terminal
as input, output or error output, it outlives the terminal. Whoever reads what it prints may go away: it goes on.`,
  options: {
    ...grouped('Network', {
      listen: repeated('MULTIADDR', address, 'Where to listen', '/ip4/0.0.0.0/tcp/4001 for a server, nowhere for a client'),
      announce: repeated('MULTIADDR', address, 'What to tell others instead: a forwarded port, a public name', 'what it listens on'),
      allow: repeated('PEERID', peerId, 'A peer that this server admits without an invite', 'those that init was given'),
      moveAfter: optional(
        'DURATION',
        duration({ max: '24h' }),
        'A server that leads: how long a block is without a server before one that joined with --blocks auto moves there',
        '60s'
      ),
      maxConnections: optional('COUNT', integer({ min: 2, max: 10_000 }), 'Connections at most', '300'),
      verify: optional(
        'SHARE',
        share,
        'A client: the share of generated texts, such as 1%, of which other servers compute the middle again, to check those that did; they then see what those saw. Above 0% this client carries the hidden states of all its texts from server to server. See docs/verification.md',
        '0%'
      )
    }),
    ...grouped('Privacy (clients)', { keepStream }),
    ...grouped('HTTP', {
      http: optional(
        'HOST:PORT',
        httpAddress,
        'A client: serve the OpenAI-compatible API there, as midspan serve does; a port alone is one on 127.0.0.1. See docs/http.md',
        'nowhere'
      ),
      httpHost
    }),
    ...grouped('This machine', {
      threads,
      device,
      compute,
      weights,
      ...residuals,
      logLevel: optional(
        'LEVEL',
        choice('fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'),
        'What the log in the home keeps',
        'info'
      )
    })
  },
  examples: [
    { command: 'midspan daemon --home s --listen /ip4/0.0.0.0/tcp/4001', about: 'a server that others can reach' },
    { command: 'midspan daemon --home w1 --listen /ip4/0.0.0.0/tcp/4002', about: 'a worker, which computes its blocks' },
    { command: 'midspan daemon --home a', about: 'a client' }
  ],
  async run (
    {
      home, listen, announce, allow, moveAfter, maxConnections, verify, keepStream, http, httpHost,
      threads, device, compute, weights, residuals, residualBytes, logLevel
    },
    { terminal, signal }
  ) {
    const { startDaemon } = await import('../../node/daemon/daemon.ts')
    const options = {
      listen: given(listen),
      announce: given(announce),
      allow: given(allow),
      moveAfterMs: moveAfter,
      maxConnections,
      verify,
      keepStream,
      http,
      httpHosts: given(httpHost),
      threads,
      device,
      compute,
      weights,
      residuals,
      residualBytes,
      logLevel
    }
    // A daemon that hears of another coordinator, or is to serve other blocks, stops, and does so when it starts again.
    for (;;) {
      const { isSuperseded, hasMoved } = await runOnce(async () => await startDaemon(home, options, { signal }), { terminal, signal })
      if (!(isSuperseded || hasMoved) || signal.aborted) break
      terminal.line(isSuperseded ? 'Another server leads from now on: starting again' : 'This server serves other blocks from now on: starting again')
    }
    terminal.line('Stopped')
  }
})

/** Runs a daemon until it has stopped. Throws what kept it from starting, and from stopping cleanly. */
async function runOnce (start: () => Promise<Daemon>, { terminal, signal }: { terminal: Terminal, signal: AbortSignal }): Promise<Daemon> {
  const progress = new ProgressLine(terminal)
  const slow = setTimeout(() => { progress.wait('the model is being loaded, or the servers have not answered yet') }, QUIET_MS)
  const running = await start().finally(() => {
    clearTimeout(slow)
    progress.clear()
  })
  introduce(running.status(), terminal)
  const stop = (): void => { running.stop().catch(() => {}) } // told below
  signal.addEventListener('abort', stop, { once: true })
  if (signal.aborted) stop()
  await running.stopped
  signal.removeEventListener('abort', stop)
  await running.stop() // the same stop again: throws what kept it from being clean
  return running
}

/** An option that was not given says nothing, rather than "none". */
function given<T> (values: readonly T[]): readonly T[] | undefined {
  return values.length === 0 ? undefined : values
}

function introduce (status: ResultOf<'status'>, terminal: Terminal): void {
  terminal.line(`Peer ${status.peerId}, a ${status.role} (${status.agent})`)
  terminal.line(`Federation ${status.federation.name} (${status.federation.id})`)
  terminal.line(`${work(status)} on ${status.device} (${status.deviceReason})`)
  for (const multiaddr of status.listening) terminal.line(`Listening on ${multiaddr}`)
  if (status.http !== undefined) introduceHttp(status.http, terminal)
  if (!status.connected)
    terminal.note(`No server is connected: ${status.disconnectedReason ?? 'none was tried yet'}. This daemon goes on trying`)
  terminal.line('Daemon is ready')
}

function work ({ partition, blocks }: ResultOf<'status'>): string {
  if (partition !== null) return `Holding ${endSpans(partition)}`
  return blocks === null ? 'Computing' : `Serving blocks ${blocks.first} to ${blocks.end - 1}`
}
