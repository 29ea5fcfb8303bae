import { MidspanError, UsageError } from '../../errors.ts'
import { describeNoiseCost } from '../../model/privacy/noise-cost.ts'
import type { JoinServerEvent, JoinServerOptions } from '../../node/federation/join-server.ts'
import type { JoinEvent, JoinOptions } from '../../node/federation/join.ts'
import { homeAt } from '../../node/home/home.ts'
import { spanText } from '../../span.ts'
import { command } from '../command.ts'
import { bytes, digits, endSpans, plural } from '../format.ts'
import { readInvite } from '../invite-text.ts'
import { grouped, optional } from '../option.ts'
import { clientNoise, json, keepStream, timeout, weights } from '../shared-options.ts'
import type { Terminal } from '../terminal.ts'
import { integer, path, size, spanOrAuto } from '../values.ts'
import { bar, ProgressLine } from '../views/progress-line.ts'

const BAR_COLUMNS = 20

/** A server from which nothing came for so long is named as what the command waits for. */
const QUIET_MS = 5_000

export const join = command({
  name: 'join',
  group: 'Found and join',
  summary: 'Join a federation as a client, or as a server of some blocks',
  details: `Fetches and checks the charter, then the tokenizer and the weights of just the blocks that stay here. Interrupted, it resumes.
With --blocks and an invite that was made with --role server it joins as a server of these blocks, whose weights it fetches or finds in --model.
In a home that has joined the federation already it updates the server's addresses, as after the server has moved, and keeps all else.
An invite is a secret, and other users of a machine see command lines: give it with --invite-file, or with - on standard input. Line breaks, quotation marks and words around it do no harm.`,
  argument: {
    name: 'invite',
    about: 'The line that `midspan invite` printed, or the multiaddr of a server that admits this peer; - reads standard input',
    optional: true
  },
  options: {
    ...grouped('Invite', { inviteFile: optional('FILE', path, 'A file that holds the invite, in place of the argument') }),
    ...grouped('Partition (clients)', {
      inputBlocks: optional('COUNT', integer({ min: 0 }), 'Blocks to keep after the embedding', 'the fewest that the charter allows'),
      outputBlocks: optional('COUNT', integer({ min: 0 }), 'Blocks to keep before the head', 'the fewest that the charter allows')
    }),
    ...grouped('Privacy (clients)', { ...clientNoise, keepStream }),
    ...grouped('Blocks (servers)', {
      blocks: optional(
        'FIRST-END',
        spanOrAuto,
        'Blocks to serve: the first one, and the one after the last; or auto: those within --memory that the federation lacks most'
      ),
      memory: optional('SIZE', size, 'Device memory that --blocks auto may fill, such as 12GiB'),
      model: optional('DIR', path, "The model's directory; its bytes are checked against the charter", 'the weights of the blocks are fetched')
    }),
    ...grouped('This machine', { weights }),
    ...grouped('Network', { timeout }),
    ...grouped('Output', { json })
  },
  examples: [
    { command: 'midspan join --home a INVITE', about: 'with the line that somebody handed over' },
    { command: 'midspan join --home a --invite-file invite.txt', about: 'with the message that it came in, not seen by other users' },
    {
      command: 'midspan join --home a INVITE --input-blocks 2 --noise 0.1',
      about: 'keep more of the model, and add more noise than the charter asks'
    },
    { command: 'midspan join --home w1 SERVER-INVITE --blocks 4-12', about: 'serve the blocks 4 to 11' },
    { command: 'midspan join --home w1 SERVER-INVITE --blocks auto --memory 12GiB', about: 'serve what the federation lacks most' }
  ],
  async run (values, { terminal, argument, signal }) {
    const { home, json, inviteFile, timeout, blocks, memory, weights, model } = values
    const { inputBlocks, outputBlocks, noise, gradientNoise, keepStream } = values
    const invite = await readInvite({ argument, file: inviteFile }, terminal, signal)
    const progress = new ProgressLine(terminal)
    const silent = new AbortController()
    const quiet = setTimeout(() => { progress.wait('the server has not answered yet') }, QUIET_MS)
    const limit = setTimeout(() => { silent.abort(new JoinTimeoutError(timeout)) }, timeout)
    const show = (event: JoinEvent | JoinServerEvent): void => {
      limit.refresh()
      quiet.refresh()
      if (event.type === 'charter') return
      if (event.type === 'notice') return terminal.note(sentence(event.text))
      const done = `${bar(event.doneBytes / event.totalBytes, BAR_COLUMNS)} ${bytes(event.doneBytes)} of ${bytes(event.totalBytes)}`
      progress.draw(event.type === 'check' ? `${done} checked` : done)
    }
    const surroundings: Surroundings = { home, json, terminal, signal: AbortSignal.any([signal, silent.signal]), show }
    const client = { inputBlocks, outputBlocks, noise, gradientNoise, keepStream }
    const server = { blocks, memoryBytes: memory, model }
    const join = async (): Promise<() => void> => {
      if (Object.values(server).every((value) => value === undefined) && await roleOfJoining(home, invite) === 'client')
        return await joinAsClient({ invite, weights, ...client }, surroundings)
      return await joinAsServer({ invite, weights, ...server }, client, surroundings)
    }
    const report = await join().finally(() => {
      clearTimeout(quiet)
      clearTimeout(limit)
      progress.clear()
    })
    report()
  }
})

interface Surroundings {
  readonly home: string
  readonly json: boolean
  readonly terminal: Terminal
  readonly signal: AbortSignal
  readonly show: (event: JoinEvent | JoinServerEvent) => void
}

async function joinAsClient (
  options: JoinOptions,
  { home, json, terminal, signal, show }: Surroundings
): Promise<() => void> {
  const { joinFederation } = await import('../../node/federation/join.ts')
  const joined = await joinFederation(home, options, signal, show)
  const { federation, client: { partition, noise: hidden, gradientNoise: gradient, wire } } = joined
  return () => {
    if (json) return terminal.json(joined)
    terminal.line(`${joined.updated ? 'Updated the way to' : 'Joined'} ${federation.name} (${federation.id}) as ${joined.peerId}`)
    terminal.line(
      `Keeps ${endSpans(partition)} of ${joined.blocks}: ` +
        `${plural(joined.tensors, 'tensor')}, ${bytes(joined.tensorBytes)}, all checked against the charter (${
          bytes(joined.fetchedBytes)
        } fetched)`
    )
    terminal.line(`Noise ${digits(hidden)} on hidden states and ${digits(gradient)} on gradients, ${wire} on the wire`)
    if (joined.noiseCost !== null) terminal.line(describeNoiseCost(joined.noiseCost))
    terminal.line(`Start it with: midspan daemon --home ${home}`)
  }
}

async function joinAsServer (
  options: JoinServerOptions,
  client: Omit<JoinOptions, 'invite'>,
  { home, json, terminal, signal, show }: Surroundings
): Promise<() => void> {
  if (Object.values(client).some((value) => value !== undefined))
    throw new UsageError('--blocks, --memory and --model are for servers, the partition and the noise for clients', 'leave out one or the other')
  const { joinAsServer } = await import('../../node/federation/join-server.ts')
  const joined = await joinAsServer(home, options, signal, show)
  const { federation } = joined
  return () => {
    if (json) return terminal.json(joined)
    terminal.line(`${joined.updated ? 'Updated the way to' : 'Joined'} ${federation.name} (${federation.id}) as the server ${joined.peerId}`)
    terminal.line(
      `Serves the blocks ${spanText(joined.span)} of ${joined.blocks}: ` +
        `${plural(joined.tensors, 'tensor')}, ${bytes(joined.tensorBytes)}, all checked against the charter (${
          bytes(joined.fetchedBytes)
        } fetched)`
    )
    terminal.line(`Start it with: midspan daemon --home ${home}`)
  }
}

/** What a peer joins as where no option says so: what its invite is for, or what the home is already. */
async function roleOfJoining (home: string, invite: string): Promise<'client' | 'server'> {
  const { looksLikeInvite, parseInvite } = await import('../../protocols/hello/index.ts')
  if (looksLikeInvite(invite)) return (await parseInvite(invite)).role
  const { readConfig } = await import('../../node/home/settings.ts')
  return (await readConfig(homeAt(home).config)).role ?? 'client'
}

/** Writes a text with a capital letter. */
function sentence (text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

/** Thrown when the server of an invite says nothing for too long. Trying again later may help. */
class JoinTimeoutError extends MidspanError {
  constructor (timeoutMs: number) {
    super('E_SERVER_TIMEOUT', `gave up after ${timeoutMs / 1000} s without anything from the server`, {
      next: 'run it again, which goes on where this stopped; a longer --timeout waits longer'
    })
  }
}
