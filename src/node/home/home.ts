import { join, resolve } from 'node:path'
import { MidspanError } from '../../errors.ts'
import * as atomic from '../../model/checkpoint/atomic.ts'
import { readSmallFile } from '../../model/checkpoint/small-file.ts'

/** Where a peer keeps everything: the paths inside one home directory. */
export interface Home {
  readonly root: string
  /** The Ed25519 key that is this peer, mode 0600. */
  readonly identity: string
  readonly config: string
  /** The federation's signed charter. */
  readonly charter: string
  /** Who was admitted, and which invites were used: servers only. */
  readonly admission: string
  /** The servers that this peer knows: where they can be dialled, and what they announced. */
  readonly servers: string
  /** The founder's certificate for this peer, and a server's list of those that were revoked. */
  readonly certificate: string
  /** Who leads, where it is not the founder that nobody took over from: a signed record. */
  readonly lead: string
  /** The servers that the founder lets lead one day: the founder's alone. */
  readonly mandates: string
  /** The last move of a server that chooses its blocks by itself, which may not be complete. */
  readonly move: string
  /** The parts of the model that a client holds, or that a server fetched. A founder's model stays where it is. */
  readonly model: string
  /** A founder's copy of the adapter that training starts from. */
  readonly adapter: string
  /** What the roles keep: adapters, optimisers, cursors. */
  readonly state: string
  /** The logs of a client's training, a directory for each run. */
  readonly runs: string
  /** The bearer token of the HTTP server, mode 0600. */
  readonly httpToken: string
  readonly lock: string
  readonly log: string
  /**
   * The socket on which the daemon is asked: in a directory for its owner alone, since it is open to all for a moment before it has a mode.
   */
  readonly control: string
}

/** The command needs a home in which a federation was founded or joined. */
export class NoFederationError extends MidspanError {
  static readonly code = 'E_NO_FEDERATION'

  constructor (root: string) {
    super(NoFederationError.code, `${root} belongs to no federation`, {
      next: `found one with: midspan init --home ${root} …, or join one with: midspan join --home ${root} <invite>`
    })
  }
}

/** The home already belongs to a federation. */
export class HomeInUseError extends MidspanError {
  static readonly code = 'E_HOME_IN_USE'

  constructor (root: string) {
    super(HomeInUseError.code, `${root} already belongs to a federation`, {
      next: `choose another home, or leave it with: midspan leave --home ${root}`
    })
  }
}

/** Returns the layout of the home at `root`; touches nothing. */
export function homeAt (root: string): Home {
  const absolute = resolve(root)
  const path = (name: string): string => join(absolute, name)
  return {
    root: absolute,
    identity: path('identity.key'),
    config: path('config.yaml'),
    charter: path('charter.json'),
    admission: path('admission.json'),
    servers: path('servers.json'),
    certificate: path('certificate.json'),
    lead: path('lead.bin'),
    mandates: path('mandates.json'),
    move: path('move.json'),
    model: path('model'),
    adapter: path('adapter.safetensors'),
    state: path('state'),
    runs: path('runs'),
    httpToken: path('http.token'),
    lock: path('daemon.lock'),
    log: path('daemon.log'),
    control: path('run/control.sock')
  }
}

/** Makes the home's directories, for its owner alone. */
export async function createHome (home: Home): Promise<void> {
  for (const path of [home.root, home.model, home.state]) await atomic.makeDirectories(path, 0o700)
}

/** Returns a file's bytes, or undefined where there is no such file. Throws UsageError for what is no file, or too large. */
export async function readIfPresent (path: string): Promise<Uint8Array | undefined> {
  return await readSmallFile(path)
}

/**
 * Replaces a file of the home, for its owner alone, so that a reader, or a restart at any instant, sees all of the old bytes or all of the
 * new.
 */
export async function replaceFile (path: string, bytes: Uint8Array | string): Promise<void> {
  await atomic.replaceFile(path, async (file) => { await file.writeFile(bytes) }, { mode: 0o600 })
}
