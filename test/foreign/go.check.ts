import { execFile, spawnSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, describe, expect, it } from 'vitest'
import { founded, hasStories, inviteFrom, loopback, running } from '../node/fixture.ts'

interface Result {
  readonly protocol: string
  readonly answer: string
  readonly code?: string
  readonly field?: string
  readonly charterBytes: number
  readonly charterLength: number
  readonly ended: string
}

/** Where Go installs itself. */
const GO_FOLDER = '/usr/local/go/bin'
const GOLDEN_SESSION = fileURLToPath(new URL('../protocols/wire/session.golden.json', import.meta.url))
const env = { ...process.env, PATH: `${process.env.PATH ?? ''}${delimiter}${GO_FOLDER}` }

const out = await mkdtemp(join(tmpdir(), 'midspan-foreign-'))
afterAll(async () => { await rm(out, { recursive: true, force: true }) })
const program = join(out, 'foreign')

/** What go says of modules that are not on this machine and that it cannot fetch. */
const NO_MODULES = /dial tcp|no such host|module lookup disabled|Client\.Timeout/

/**
 * Builds the Go program, which fetches its modules where they are not on this machine. Returns why there is none. Throws where it does not
 * compile.
 */
function build (): string | undefined {
  const options = { cwd: fileURLToPath(new URL('go', import.meta.url)), env, encoding: 'utf8' } as const
  const { status, error, stderr } = spawnSync('go', ['build', '-o', program, '.'], options)
  if (error !== undefined) return 'there is no go'
  if (status === 0) return undefined
  if (NO_MODULES.test(stderr)) return 'the modules of go-libp2p are not there'
  throw new Error(stderr)
}

const missing = hasStories ? build() : 'the model stories260K is not there'

async function foreign<Line = Result> (options: Readonly<Record<string, string | number>>): Promise<Line[]> {
  const { stdout } = await promisify(execFile)(program, Object.entries(options).map(([name, value]) => `-${name}=${value}`), { env })
  return stdout.trim().split('\n').map((line) => JSON.parse(line) as Line)
}

async function server (): Promise<{ readonly home: string, readonly address: string }> {
  const { home } = await founded()
  const daemon = await running(home, loopback)
  return { home, address: daemon.status().addresses[0]! }
}

describe.skipIf(missing !== undefined)(`issue 9, 23a: a peer of go-libp2p${missing === undefined ? '' : ` (not tried: ${missing})`}`, { timeout: 120_000 }, () => {
  it('that does not advertise its role is refused by name, and its invite is not used up', async () => {
    const { home, address } = await server()
    const invite = await inviteFrom(home, { uses: 1 })
    expect(await foreign({ address, invite })).toMatchObject([{ answer: 'refusal', code: 'E_ROLE', field: 'identify', ended: 'end' }])
    const [welcomed] = await foreign({ address, invite, advertise: 'client' })
    expect(welcomed).toMatchObject({ answer: 'welcome', ended: 'end' })
    expect(welcomed!.charterBytes).toBeGreaterThan(0)
    expect(welcomed!.charterBytes).toBe(welcomed!.charterLength)
    expect(await foreign({ address, invite, advertise: 'client' })).toMatchObject([{ answer: 'refusal', code: 'E_INVITE_USED', ended: 'end' }])
  })

  it('reads every refusal, before hello and of its hello', async () => {
    const { address } = await server()
    const results = await foreign({ address, advertise: 'client', peers: 8, refused: 5 })
    const refused = { protocol: '/midspan/status/1.0.0', answer: 'failure', code: 'E_NOT_ADMITTED', ended: 'end' }
    const ofHello = { protocol: '/midspan/hello/1.0.0', answer: 'refusal', code: 'E_NOT_ADMITTED', ended: 'end' }
    expect(results).toMatchObject(Array.from({ length: 8 }, () => [...Array.from({ length: 5 }, () => refused), ofHello]).flat())
  })

  it('opens the session of the golden bytes, with its own cryptography, as docs/wire.md says', async () => {
    expect(await foreign<unknown>({ session: GOLDEN_SESSION })).toEqual([{
      client: [{ sequence: 0, kind: 1, message: 'hello', values: [1, 2, 3, 4, 5, 6], shape: [2, 3] }, { sequence: 1, kind: 2, message: '' }],
      server: [{ sequence: 0, kind: 1, message: 'welcome' }, { sequence: 1, kind: 2, message: '' }]
    }])
  })
})
