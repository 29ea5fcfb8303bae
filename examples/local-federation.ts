// What the examples beside this file share: a federation whose server and clients all run in this process, with the demo's small model.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ControlClient, createDefaults, createFederation, homeAt, joinFederation, startDaemon, type Daemon } from 'midspan'

/** The demo's model is inside the package. Name a Hugging Face directory of your own here. */
const MODEL = dirname(fileURLToPath(import.meta.resolve('midspan/demo-model/config.json')))

export interface LocalFederation {
  /** A folder for files of the example, which `stop` removes. */
  readonly directory: string
  readonly server: ControlClient
  readonly clients: readonly ControlClient[]
  stop (): Promise<void>
}

/** Founds a federation, starts its server, and lets clients join and start. The caller stops it. */
export async function startLocalFederation (clientCount: number, signal: AbortSignal): Promise<LocalFederation> {
  const directory = await mkdtemp(join(tmpdir(), 'midspan-example-'))
  const daemons: Daemon[] = []
  const stop = async (): Promise<void> => {
    for (const daemon of daemons.toReversed()) await daemon.stop()
    await rm(directory, { recursive: true, force: true })
  }
  try {
    const serverHome = join(directory, 'server')
    // Large steps, since the examples train for a few rounds. A charter for real use has noise: see docs/privacy.md.
    await createFederation(serverHome, {
      ...createDefaults,
      model: MODEL,
      name: 'example',
      learningRate: 0.005,
      minClients: clientCount, // A round waits for all of them.
      maxTokensPerClient: 256,
      threads: 1
    }, signal)
    daemons.push(await startDaemon(serverHome, { listen: ['/ip4/127.0.0.1/tcp/0'], device: 'cpu', threads: 1 }, { signal }))
    const server = new ControlClient(homeAt(serverHome))
    const clients: ControlClient[] = []
    for (let i = 0; i < clientCount; i++) {
      const home = join(directory, `client-${i}`)
      const { invite } = await server.request('invite', { role: 'client', expiresMs: 600_000, uses: 1 }, signal)
      await joinFederation(home, { invite }, signal)
      daemons.push(await startDaemon(home, { device: 'cpu', threads: 1 }, { signal }))
      clients.push(new ControlClient(homeAt(home)))
    }
    return { directory, server, clients, stop }
  } catch (error) {
    await stop()
    throw error
  }
}
