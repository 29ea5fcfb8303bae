import { once } from 'node:events'
import { UsageError } from '../../errors.ts'
import type { Logger } from '../../roles/logger.ts'
import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { errorLine } from '../exit.ts'
import { defaulted, grouped } from '../option.ts'
import { httpHost, withheldWords } from '../shared-options.ts'
import type { Terminal } from '../terminal.ts'
import { httpAddress } from '../values.ts'
import { introduceHttp } from '../views/http-view.ts'

export const serve = command({
  name: 'serve',
  withoutReader: 'goes on',
  group: 'Work',
  summary: "Serve an OpenAI-compatible API, for programs that use OpenAI's",
  details:
    `Asks the client's daemon in the home, which has to run; midspan daemon --http serves the same in the daemon itself. Prints "HTTP on URL", where the
bearer token is, and "Server is ready". The token is made at the first start, for the home's owner alone. docs/http.md says what is served.`,
  options: {
    ...grouped('HTTP', {
      http: defaulted('HOST:PORT', httpAddress, '127.0.0.1:4010', 'Where to serve; a port alone is one on 127.0.0.1, and port 0 a free one'),
      httpHost
    }),
    ...grouped('Privacy', { withhold: withheldWords })
  },
  examples: [
    { command: 'midspan serve --home a', about: 'for programs on this machine' },
    { command: 'midspan serve --home a --http 0.0.0.0:4010 --http-host gpu.example.org', about: 'behind a proxy with TLS, under a name' }
  ],
  async run ({ home, http, httpHost, withhold }, { terminal, signal }) {
    const { role } = await askDaemon(home, 'status', {}, signal, terminal)
    if (role !== 'client') throw new UsageError(`${home} is a server's, which has neither text nor the ends of the model`, "give a client's home")
    const [
      { startHttpServer }, { withholdingBackend }, { parseHttpAddress }, { ControlClient }, { homeAt }, { readMembership }
    ] = await Promise.all([
      import('../../node/http/server.ts'),
      import('../../node/http/backend.ts'),
      import('../../node/http/address.ts'),
      import('../../node/control/client.ts'),
      import('../../node/home/home.ts'),
      import('../../node/federation/membership.ts')
    ])
    const { signed: { charter } } = await readMembership(homeAt(home))
    const server = await startHttpServer({
      home: homeAt(home),
      charter,
      address: parseHttpAddress(http)!,
      hosts: httpHost,
      backend: withholdingBackend(new ControlClient(homeAt(home)), withhold),
      logger: terminalLogger(terminal)
    })
    introduceHttp({ url: server.url, tokenFile: server.tokenPath }, terminal)
    terminal.line('Server is ready')
    if (!signal.aborted) await once(signal, 'abort')
    await server.stop()
    terminal.line('Stopped')
  }
})

/** Writes what goes wrong to the terminal: the log in the home is the daemon's. */
function terminalLogger (terminal: Terminal): Logger {
  const tell = (details: object, message: string): void => {
    terminal.note('err' in details ? `${message}: ${errorLine(details.err)}` : message)
  }
  return { debug: () => {}, info: () => {}, warn: tell, error: tell }
}
