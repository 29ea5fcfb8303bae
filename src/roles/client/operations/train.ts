import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { checkClientSettings } from '../../../protocols/charter/index.ts'
import { aggregationOf } from '../../training/aggregation/factory.ts'
import type { ClientRuntime } from '../runtime.ts'
import { loadBatches, runKey } from '../training/data.ts'
import type { ProgressMeta, Run } from '../training/progress.ts'
import { ClientTrainer } from '../training/trainer.ts'

/** Takes part in training with a data file until as many rounds are done as were asked for. */
export async function * train (
  core: ClientRuntime,
  { rounds, fresh, noise, gradientNoise, ...data }: ParametersOf<'train'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'train'>> {
  const { charter, client } = core.context
  const settings = { ...client, noise: noise ?? client.noise, gradientNoise: gradientNoise ?? client.gradientNoise }
  checkClientSettings(charter, settings)
  yield * core.exclusively(async function * (): AsyncGenerator<EventOf<'train'>> {
    const { dataset, batches } = await loadBatches(data, core.tokenizer, charter, signal)
    const key = await runKey(data)
    const before = fresh ? undefined : core.progress?.run
    const resumed = before?.key === key ? before : undefined
    const run: Run = { key, rounds, done: resumed?.done ?? 0, cursor: resumed?.cursor ?? { epoch: 0, index: 0 } }
    const strategy = aggregationOf(charter).client
    if (fresh && !strategy.sharesAdapters) await core.state.reset()
    const progress: ProgressMeta & { run: Run } = {
      federation: Buffer.from(core.context.charterHash).toString('hex'), round: core.progress?.round ?? 0, partition: client.partition, run
    }
    yield {
      type: 'start',
      round: progress.round,
      done: run.done,
      rounds,
      ...(run.done > 0 ? { resumedFrom: run.done } : {}),
      records: dataset.examples.length,
      skippedLines: dataset.badLines
    }
    const startedAtMs = Date.now()
    const trainer = new ClientTrainer({
      charter,
      strategy,
      partition: client.partition,
      ends: core.clientEnds(settings),
      state: core.state,
      batches,
      progress,
      resumed: resumed !== undefined,
      onProgress: (meta) => { core.progress = meta },
      open: async (inner) => await core.openTraining(inner)
    })
    let loss: number | null = null
    for await (const event of trainer.run(signal)) {
      if (event.type === 'round') loss = event.loss
      yield event
    }
    yield { type: 'done', rounds, loss, seconds: (Date.now() - startedAtMs) / 1000, ...trainer.traffic }
  }, signal)
}
