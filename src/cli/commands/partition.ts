import type { EventOf, ResultOf } from '../../api/operations.ts'
import { MidspanError, UsageError } from '../../errors.ts'
import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import { bytes, endSpans, plural } from '../format.ts'
import { grouped, optional, toggle } from '../option.ts'
import { json, timeout } from '../shared-options.ts'
import { integer } from '../values.ts'
import { bar, ProgressLine } from '../views/progress-line.ts'

const BAR_COLUMNS = 20

export const partition = command({
  name: 'partition',
  operation: 'partition',
  group: 'Work',
  summary: 'Change the blocks that this client holds, also while it trains',
  details: `Fetches the weights of the blocks that come, and removes those of the blocks that go. A training in progress stops between two rounds and goes on with
the new blocks by itself. With shared ends it goes on exactly as if the client had held them all along. Otherwise what only this client has learnt in blocks
that go is lost, which takes --discard, and blocks that come start from the middle's adapters. Killed at any time, the home has the old blocks or the new ones, with all that belongs to them.`,
  options: {
    ...grouped('Partition', {
      inputBlocks: optional('COUNT', integer({ min: 0 }), 'Blocks to keep after the embedding', 'as they are'),
      outputBlocks: optional('COUNT', integer({ min: 0 }), 'Blocks to keep before the head', 'as they are'),
      discard: toggle('Give up what only this client has learnt in the blocks that go')
    }),
    ...grouped('Network', { timeout }),
    ...grouped('Output', { json })
  },
  examples: [
    { command: 'midspan partition --home a --input-blocks 3 --output-blocks 2', about: 'keep more of the model here' },
    { command: 'midspan partition --home a --input-blocks 1', about: 'and less again' }
  ],
  async run ({ home, json, inputBlocks, outputBlocks, discard, timeout }, { terminal, signal }) {
    if (inputBlocks === undefined && outputBlocks === undefined)
      throw new UsageError('what to change is not said', 'give --input-blocks, --output-blocks or both')
    const options = {
      ...(inputBlocks === undefined ? {} : { inputBlocks }),
      ...(outputBlocks === undefined ? {} : { outputBlocks }),
      discard
    }
    const progress = new ProgressLine(terminal)
    const show = (event: EventOf<'partition'>): ResultOf<'partition'> | undefined => {
      switch (event.type) {
        case 'waiting': progress.wait(event.reason); return undefined
        case 'fetch':
          progress.draw(`${bar(event.doneBytes / event.totalBytes, BAR_COLUMNS)} ${bytes(event.doneBytes)} of ${bytes(event.totalBytes)}`)
          return undefined
        case 'done': return event
      }
    }
    let result: ResultOf<'partition'> | undefined
    try {
      for await (const event of callDaemon(home, 'partition', { ...options, timeoutMs: timeout }, signal)) result = show(event) ?? result
    } catch (error) {
      if (!(error instanceof MidspanError) || error.code !== 'E_NO_DAEMON') throw error
      const { changePartition } = await import('../../node/federation/partition.ts')
      result = await changePartition(home, options, signal, show)
    } finally {
      progress.clear()
    }
    if (result === undefined) return
    if (json) return terminal.json(result)
    const { partition, before, blocks, tensors, tensorBytes, fetchedBytes, noiseCost, note } = result
    terminal.line(
      `Keeps ${endSpans(partition)} of ${blocks}: ${plural(tensors, 'tensor')}, ${bytes(tensorBytes)}, all checked against the charter (${
        bytes(fetchedBytes)
      } fetched)`
    )
    terminal.line(`It kept ${endSpans(before)} before`)
    if (noiseCost !== null) terminal.line(noiseCost)
    if (note !== null) terminal.note(`Not exactly as before: ${note}`)
  }
})
