import { MidspanError } from '../../errors.ts'
import { describeNoiseCost } from '../../model/privacy/noise-cost.ts'
import type { JoinEvent } from '../../node/federation/join.ts'
import { command } from '../command.ts'
import { bytes, digits, endSpans, plural } from '../format.ts'
import { readInvite } from '../invite-text.ts'
import { grouped, optional } from '../option.ts'
import { clientNoise, json, timeout } from '../shared-options.ts'
import { integer, path } from '../values.ts'
import { bar, ProgressLine } from '../views/progress-line.ts'

const BAR_COLUMNS = 20

/** A server from which nothing came for so long is named as what the command waits for. */
const QUIET_MS = 5_000

export const join = command({
  name: 'join',
  group: 'Found and join',
  summary: 'Join a federation as a client',
  details: `Fetches and checks the charter, then the tokenizer and the weights of just the blocks that stay here. Interrupted, it resumes.
In a home that has joined the federation already it updates the server's addresses, as after the server has moved, and keeps all else.
An invite is a secret, and other users of a machine see command lines: give it with --invite-file, or with - on standard input. Line breaks, quotation marks and words around it do no harm.`,
  argument: {
    name: 'invite',
    about: 'The line that `midspan invite` printed, or the multiaddr of a server that admits this peer; - reads standard input',
    optional: true
  },
  options: {
    ...grouped('Invite', { inviteFile: optional('FILE', path, 'A file that holds the invite, in place of the argument') }),
    ...grouped('Partition', {
      inputBlocks: optional('COUNT', integer({ min: 0 }), 'Blocks to keep after the embedding', 'the fewest that the charter allows'),
      outputBlocks: optional('COUNT', integer({ min: 0 }), 'Blocks to keep before the head', 'the fewest that the charter allows')
    }),
    ...grouped('Privacy', clientNoise),
    ...grouped('Network', { timeout }),
    ...grouped('Output', { json })
  },
  examples: [
    { command: 'midspan join --home a INVITE', about: 'with the line that somebody handed over' },
    { command: 'midspan join --home a --invite-file invite.txt', about: 'with the message that it came in, not seen by other users' },
    {
      command: 'midspan join --home a INVITE --input-blocks 2 --noise 0.1',
      about: 'keep more of the model, and add more noise than the charter asks'
    }
  ],
  async run ({ home, json, inviteFile, timeout, inputBlocks, outputBlocks, noise, gradientNoise }, { terminal, argument, signal }) {
    const invite = await readInvite({ argument, file: inviteFile }, terminal, signal)
    const { joinFederation } = await import('../../node/federation/join.ts')
    const progress = new ProgressLine(terminal)
    const silent = new AbortController()
    const quiet = setTimeout(() => { progress.wait('the server has not answered yet') }, QUIET_MS)
    const limit = setTimeout(() => { silent.abort(new JoinTimeoutError(timeout)) }, timeout)
    const show = (event: JoinEvent): void => {
      limit.refresh()
      quiet.refresh()
      if (event.type === 'fetch')
        progress.draw(`${bar(event.doneBytes / event.totalBytes, BAR_COLUMNS)} ${bytes(event.doneBytes)} of ${bytes(event.totalBytes)}`)
    }
    const settings = { invite, inputBlocks, outputBlocks, noise, gradientNoise }
    const joined = await joinFederation(home, settings, AbortSignal.any([signal, silent.signal]), show).finally(() => {
      clearTimeout(quiet)
      clearTimeout(limit)
      progress.clear()
    })
    if (json) return terminal.json(joined)
    const { federation, client: { partition, noise: hidden, gradientNoise: gradient, wire } } = joined
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
})

/** Thrown when the server of an invite says nothing for too long. Trying again later may help. */
class JoinTimeoutError extends MidspanError {
  constructor (timeoutMs: number) {
    super('E_SERVER_TIMEOUT', `gave up after ${timeoutMs / 1000} s without anything from the server`, {
      next: 'run it again, which goes on where this stopped; a longer --timeout waits longer'
    })
  }
}
