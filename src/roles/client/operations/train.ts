import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { checkClientSettings, type ClientSettings } from '../../../protocols/charter/index.ts'
import { protectionOf } from '../../charter-settings.ts'
import { aggregationOf } from '../../training/aggregation/factory.ts'
import type { CurrentClient } from '../current-client.ts'
import { TrafficMeter } from '../traffic.ts'
import { foundIn, loadBatches, runKey } from '../training/data.ts'
import type { Run } from '../training/progress.ts'
import { ClientTrainer } from '../training/trainer.ts'

/**
 * Takes part in training with a data file until as many rounds are done as were asked for. Between two rounds it makes way for a change of
 * the client's blocks, and goes on with these.
 */
export async function * train (
  current: CurrentClient,
  { rounds, fresh, rewind, noise, gradientNoise, ...data }: ParametersOf<'train'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'train'>> {
  const { context: { charter }, lock } = current.client
  const settingsOf = (chosen: ClientSettings): ClientSettings => ({
    ...chosen, noise: noise ?? chosen.noise, gradientNoise: gradientNoise ?? chosen.gradientNoise
  })
  checkClientSettings(charter, settingsOf(current.client.context.client))
  yield * lock.exclusively(async function * (): AsyncGenerator<EventOf<'train'>> {
    const { dataset, batches } = await loadBatches(data, current.client.context.paths.model, charter, signal)
    const key = await runKey(data)
    let client = await current.take(signal)
    let isTaken = true
    try {
      const before = fresh ? undefined : client.state.progress?.run
      const resumed = before?.key === key ? before : undefined
      const run: Run = {
        key, rounds, done: resumed?.done ?? 0, cursor: resumed?.cursor ?? { epoch: 0, index: 0 }, uncounted: resumed?.uncounted ?? 0
      }
      const strategy = aggregationOf(charter).client
      if (fresh && !strategy.sharesAdapters) await client.state.reset()
      let place: ClientTrainer['place'] = {
        progress: {
          federation: Buffer.from(client.context.charterHash).toString('hex'),
          round: client.state.progress?.round ?? 0,
          partition: client.context.client.partition,
          run
        },
        resumed: resumed !== undefined
      }
      yield {
        type: 'start',
        round: place.progress.round,
        done: run.done,
        rounds,
        ...(run.done > 0 ? { resumedFrom: run.done } : {}),
        records: dataset.examples.length,
        ...foundIn(dataset)
      }
      const startedAtMs = Date.now()
      const traffic = new TrafficMeter()
      let loss: number | null = null
      for (;;) {
        const { context, runtime: { device, clientModel: model, boundary }, secret, ledger, state, sessions } = client
        const { partition } = context.client
        const trainer = new ClientTrainer({ device, model, boundary, secret, ledger, state, sessions, batches, strategy }, {
          charter,
          partition,
          peer: context.peerId.toString(),
          protection: protectionOf(charter, settingsOf(context.client)),
          ...place,
          progress: { ...place.progress, partition },
          rewind,
          makeWay: current.makeWay,
          traffic
        })
        for await (const event of trainer.run(signal)) {
          if (event.type === 'round') loss = event.loss
          yield event
        }
        if (trainer.isDone) break
        place = trainer.place
        current.giveBack()
        isTaken = false
        yield { type: 'waiting', reason: 'the blocks of this client are being changed' }
        client = await current.take(signal)
        isTaken = true
      }
      yield { type: 'done', rounds, loss, seconds: (Date.now() - startedAtMs) / 1000, ...traffic.total }
    } finally {
      if (isTaken) current.giveBack()
    }
  }, signal)
}
