import type { JoinEvent } from '../../node/federation/join.ts'
import { command } from '../command.ts'
import { bytes, digits, endSpans, plural } from '../format.ts'
import { grouped, optional } from '../option.ts'
import { clientNoise, json } from '../shared-options.ts'
import { integer } from '../values.ts'
import { bar, ProgressLine } from '../views/progress-line.ts'

const BAR_COLUMNS = 20

export const join = command({
  name: 'join',
  group: 'Found and join',
  summary: 'Join a federation as a client',
  details: `Fetches and checks the charter, then the tokenizer and the weights of just the blocks that stay here. Interrupted, it resumes.
In a home that has joined the federation already it updates the server's addresses, as after the server has moved, and keeps all else.`,
  argument: { name: 'invite', about: 'The line that `midspan invite` printed, or the multiaddr of a server that admits this peer' },
  options: {
    ...grouped('Partition', {
      inputBlocks: optional('COUNT', integer({ min: 0 }), 'Blocks to keep after the embedding', 'the fewest that the charter allows'),
      outputBlocks: optional('COUNT', integer({ min: 0 }), 'Blocks to keep before the head', 'the fewest that the charter allows')
    }),
    ...grouped('Privacy', clientNoise),
    ...grouped('Output', { json })
  },
  examples: [
    { command: 'midspan join --home a INVITE', about: 'with the line that somebody handed over' },
    {
      command: 'midspan join --home a INVITE --input-blocks 2 --noise 0.7',
      about: 'keep more of the model, and add more noise than the charter asks'
    }
  ],
  async run ({ home, json, inputBlocks, outputBlocks, noise, gradientNoise }, { terminal, argument, signal }) {
    const { joinFederation } = await import('../../node/federation/join.ts')
    const progress = new ProgressLine(terminal)
    const show = (event: JoinEvent): void => {
      if (event.type === 'fetch')
        progress.draw(`${bar(event.doneBytes / event.totalBytes, BAR_COLUMNS)} ${bytes(event.doneBytes)} of ${bytes(event.totalBytes)}`)
    }
    const joined = await joinFederation(home, { invite: argument, inputBlocks, outputBlocks, noise, gradientNoise }, signal, show).finally(
      () => {
        progress.clear()
      }
    )
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
    terminal.line(`Start it with: midspan daemon --home ${home}`)
  }
})
