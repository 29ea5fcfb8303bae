import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { checkClientSettings } from '../../../protocols/charter/index.ts'
import { protectionOf } from '../../charter-settings.ts'
import { aggregationOf } from '../../training/aggregation/factory.ts'
import type { Client } from '../client.ts'
import { foundIn, loadBatches, runKey } from '../training/data.ts'
import type { ProgressMeta, Run } from '../training/progress.ts'
import { ClientTrainer } from '../training/trainer.ts'

/** Takes part in training with a data file until as many rounds are done as were asked for. */
export async function * train (
  client: Client,
  { rounds, fresh, rewind, noise, gradientNoise, ...data }: ParametersOf<'train'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'train'>> {
  const { context, runtime, state, lock, sessions, secret } = client
  const { charter, client: { partition, ...chosen } } = context
  const settings = {
    partition, ...chosen, noise: noise ?? chosen.noise, gradientNoise: gradientNoise ?? chosen.gradientNoise
  }
  checkClientSettings(charter, settings)
  yield * lock.exclusively(async function * (): AsyncGenerator<EventOf<'train'>> {
    const { dataset, batches } = await loadBatches(data, context.paths.model, charter, signal)
    const key = await runKey(data)
    const before = fresh ? undefined : state.progress?.run
    const resumed = before?.key === key ? before : undefined
    const run: Run = {
      key, rounds, done: resumed?.done ?? 0, cursor: resumed?.cursor ?? { epoch: 0, index: 0 }, uncounted: resumed?.uncounted ?? 0
    }
    const strategy = aggregationOf(charter).client
    if (fresh && !strategy.sharesAdapters) await state.reset()
    const progress: ProgressMeta & { run: Run } = {
      federation: Buffer.from(context.charterHash).toString('hex'), round: state.progress?.round ?? 0, partition, run
    }
    yield {
      type: 'start',
      round: progress.round,
      done: run.done,
      rounds,
      ...(run.done > 0 ? { resumedFrom: run.done } : {}),
      records: dataset.examples.length,
      ...foundIn(dataset)
    }
    const startedAtMs = Date.now()
    const { device, clientModel: model, boundary } = runtime
    const trainer = new ClientTrainer({ device, model, boundary, secret, state, sessions, batches, strategy }, {
      charter,
      partition,
      peer: context.peerId.toString(),
      protections: protectionOf(charter, settings),
      progress,
      resumed: resumed !== undefined,
      rewind
    })
    let loss: number | null = null
    for await (const event of trainer.run(signal)) {
      if (event.type === 'round') loss = event.loss
      yield event
    }
    yield { type: 'done', rounds, loss, seconds: (Date.now() - startedAtMs) / 1000, ...trainer.traffic }
  }, signal)
}
