import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { replaceFile } from '../../../model/checkpoint/atomic.ts'
import type { Logger } from '../../logger.ts'

/** For how long a server that was caught computing wrong is left out of a client's routes. */
const LEFT_OUT_MS = 30 * 86_400_000

/** Servers that are remembered at most; the oldest are forgotten. */
const MAX_CAUGHT = 1000

const caughtSchema = z.strictObject({
  server: z.string(),
  blocks: z.strictObject({ first: z.int().min(0), end: z.int().min(1) }),
  atMs: z.number(),
  /** The checked tokens, and the middle one of their distances from what others computed. */
  tokens: z.int().min(1),
  distance: z.number()
})

/** A server that answered wrong, as others computed it. */
export type CaughtServer = z.infer<typeof caughtSchema>

/** Remembers the servers that this client caught computing wrong, over restarts. */
export class CaughtServers {
  readonly #path: string
  readonly #logger: Logger
  readonly #now: () => number
  readonly #caught = new Map<string, CaughtServer>()
  #writing: Promise<void> = Promise.resolve()

  private constructor (path: string, logger: Logger, now: () => number) {
    this.#path = path
    this.#logger = logger
    this.#now = now
  }

  /** Reads what is kept at this path; where there is nothing, no server was caught. `now` returns milliseconds since 1970. */
  static async open (path: string, logger: Logger, now = (): number => Date.now()): Promise<CaughtServers> {
    const servers = new CaughtServers(path, logger, now)
    for (const caught of await read(path, logger)) servers.#caught.set(caught.server, caught)
    return servers
  }

  /** Those that are left out now. */
  get all (): CaughtServer[] {
    return [...this.#caught.values()].filter(({ server }) => this.has(server))
  }

  has (server: string): boolean {
    return this.#now() < (this.#caught.get(server)?.atMs ?? -Infinity) + LEFT_OUT_MS
  }

  /** Leaves a server out from now on. Resolves when that is kept; where it cannot be, the log says so. */
  async add (found: Omit<CaughtServer, 'atMs'>): Promise<void> {
    this.#caught.delete(found.server)
    this.#caught.set(found.server, { ...found, atMs: this.#now() })
    for (const server of [...this.#caught.keys()].slice(0, -MAX_CAUGHT)) this.#caught.delete(server)
    this.#writing = this.#writing.then(async () => {
      try {
        await replaceFile(this.#path, async (file) => { await file.writeFile(JSON.stringify(this.all)) }, { mode: 0o600 })
      } catch (error) {
        this.#logger.error({ err: error }, 'the servers that were caught computing wrong cannot be kept over a restart')
      }
    })
    await this.#writing
  }
}

async function read (path: string, logger: Logger): Promise<CaughtServer[]> {
  try {
    return z.array(caughtSchema).max(MAX_CAUGHT).parse(JSON.parse(await readFile(path, 'utf8')))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    if (!(error instanceof z.ZodError || error instanceof SyntaxError)) throw error
    logger.warn({ path }, 'the list of servers that were caught computing wrong is damaged, and begins anew')
    return []
  }
}
