import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { MidspanError, UsageError } from '../../../errors.ts'
import type { Batches } from '../../../model/text/batches.ts'
import { learningRateAt } from '../../../model/training/learning-rate.ts'
import { checkClientSettings, type ClientSettings } from '../../../protocols/charter/index.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { protectionOf } from '../../charter-settings.ts'
import type { ClientContext } from '../../context.ts'
import { isSignedByPeer, signerOf } from '../../secure-messages.ts'
import { aggregationOf } from '../../training/aggregation/factory.ts'
import type { CurrentClient } from '../current-client.ts'
import { TrafficMeter } from '../traffic.ts'
import { foundIn, loadBatches, runKey } from '../training/data.ts'
import { EvaluationSchedule } from '../training/evaluation-schedule.ts'
import type { ProgressMeta, Run } from '../training/progress.ts'
import { RunLog, type RoundEntry } from '../training/run-log.ts'
import { ClientTrainer, type ClientTrainerSettings } from '../training/trainer.ts'
import { withdraw } from '../training/withdrawal.ts'
import { evaluateRun, type RunEvaluation } from './run-evaluation.ts'

type RoundEvent = Extract<EventOf<'train'>, { readonly type: 'round' }>

/**
 * Takes part in training with a data file until as many rounds are done as were asked for, or until evaluations on held-out data bring
 * nothing any more. Between two rounds it makes way for a change of the client's blocks, and goes on with these.
 */
export async function * train (
  current: CurrentClient,
  {
    rounds: roundsAsked, epochs, evalData, evalEvery, patience = Infinity, fresh, rewind, noise, gradientNoise, contributors, ...data
  }: ParametersOf<'train'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'train'>> {
  const { context: { charter }, lock } = current.client
  const settingsOf = (chosen: ClientSettings): ClientSettings => ({
    ...chosen, noise: noise ?? chosen.noise, gradientNoise: gradientNoise ?? chosen.gradientNoise
  })
  checkClientSettings(charter, settingsOf(current.client.context.client))
  yield * lock.exclusively(async function * (): AsyncGenerator<EventOf<'train'>> {
    const { paths } = current.client.context
    const { dataset, batches } = await loadBatches(data, 'learn', paths.model, charter, signal)
    const heldOut = evalData === undefined
      ? undefined
      : (await loadBatches({ ...data, data: evalData, packing: 'padded', sequences: undefined }, 'measure', paths.model, charter, signal)).batches
    const rounds = epochs === undefined ? roundsAsked : roundsOf(batches, epochs, charter)
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
      if (fresh) await client.gate.reset()
      let place: ClientTrainer['place'] = {
        progress: {
          federation: Buffer.from(client.context.charterHash).toString('hex'),
          round: client.state.progress?.round ?? 0,
          partition: client.context.client.partition,
          ...(fresh ? {} : tokensOf(client.state.progress)),
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
      const startedAtMs = performance.now()
      const traffic = new TrafficMeter()
      const log = await RunLog.open(paths.runs, {
        key, data: typeof data.data === 'string' ? [data.data] : data.data, resumed: run.done > 0
      })
      const schedule = new EvaluationSchedule({ every: evalEvery, patience }, log.before)
      const evaluation: RunEvaluation | undefined = heldOut === undefined ? undefined : { batches: heldOut, schedule, log }
      let loss: number | null = null
      // What the run begins with is what it has to be better than.
      if (evaluation !== undefined && schedule.best === undefined && run.done < rounds)
        yield * evaluateRun(client, evaluation, run.done, signal)
      let stoppedEarly = false
      for (;;) {
        const { context, runtime: { device, clientModel: model, boundary }, secret, ledger, state, gate, sessions } = client
        const { partition } = context.client
        const pause = new AbortController()
        const trainer = new ClientTrainer({ device, model, boundary, secret, ledger, state, gate, sessions, batches, strategy }, {
          charter,
          partition,
          peer: context.peerId.toString(),
          protection: protectionOf(charter, settingsOf(context.client)),
          ...place,
          progress: { ...place.progress, partition },
          rewind,
          makeWay: AbortSignal.any([current.makeWay, pause.signal]),
          traffic,
          secure: secureSums(context, contributors)
        })
        for await (const event of trainer.run(signal)) {
          if (event.type === 'round') {
            loss = event.loss
            await log.round(entryOf(event, charter))
            if (evaluation !== undefined && schedule.isDue(event.done) && event.done < rounds)
              pause.abort(new MidspanError('E_PAUSE', 'the run is evaluated'))
          }
          yield event
        }
        place = trainer.place
        const { done } = place.progress.run
        if (evaluation !== undefined && (pause.signal.aborted || trainer.isDone) && schedule.lacks(done)) {
          try {
            yield * evaluateRun(client, evaluation, done, signal)
          } catch (error) {
            // The rounds would wait for a client that is paused.
            if (!trainer.isDone) await withdraw(sessions)
            throw error
          }
        }
        stoppedEarly = !trainer.isDone && evaluation !== undefined && schedule.isExhausted
        if (stoppedEarly) await withdraw(sessions)
        if (trainer.isDone || stoppedEarly) break
        if (!current.makeWay.aborted) continue
        current.giveBack()
        isTaken = false
        yield { type: 'waiting', reason: 'the blocks of this client are being changed' }
        client = await current.take(signal)
        isTaken = true
      }
      const { best } = schedule
      yield {
        type: 'done',
        rounds: stoppedEarly ? place.progress.run.done : rounds,
        loss,
        seconds: (performance.now() - startedAtMs) / 1000,
        ...traffic.total,
        run: log.directory,
        ...(evaluation === undefined ? {} : { stoppedEarly, ...(best === undefined ? {} : { best }) })
      }
    } finally {
      if (isTaken) current.giveBack()
    }
  }, signal)
}

/** What a client's part in secure sums needs; undefined where the federation has none. Throws UsageError. */
function secureSums (
  { charter: { aggregation }, charterHash, identity }: ClientContext,
  contributors: readonly string[] | undefined
): ClientTrainerSettings['secure'] {
  if (aggregation.mode === 'plain') {
    if (contributors === undefined) return undefined
    throw new UsageError('--contributors is for secure sums, and this federation has none', 'leave it out')
  }
  return {
    federation: Buffer.from(charterHash).toString('hex'),
    minContributors: aggregation.minContributors,
    signer: signerOf(identity),
    verify: isSignedByPeer,
    known: contributors === undefined ? undefined : new Set(contributors)
  }
}

/** The tokens that a client's adapters have learnt from since the last average, as its progress has them. */
function tokensOf ({ unaveragedTokens, pendingTokens }: Partial<ProgressMeta> = {}): Partial<ProgressMeta> {
  return { ...(unaveragedTokens === undefined ? {} : { unaveragedTokens }), ...(pendingTokens === undefined ? {} : { pendingTokens }) }
}

/** Returns the rounds that so many passes over the data take; the last of them may go on with the next pass. */
function roundsOf (batches: Batches, epochs: number, { training: { gradientAccumulationSteps } }: Charter): number {
  let count = 0
  for (let epoch = 0; epoch < epochs; epoch++) count += batches.count(epoch)
  return Math.ceil(count / gradientAccumulationSteps)
}

function entryOf ({ type: _, ...event }: RoundEvent, { training: { schedule, optimizer } }: Charter): Omit<RoundEntry, 'type' | 'time'> {
  return { ...event, learningRate: learningRateAt(schedule, optimizer.learningRate, event.round) }
}
