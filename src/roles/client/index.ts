import { deviceLine, clientSpans } from '../charter-settings.ts'
import type { ClientContext, RunningRole } from '../context.ts'
import { openClient } from './client.ts'
import { evaluate } from './operations/evaluate.ts'
import { exportTrained } from './operations/export.ts'
import { generate } from './operations/generate.ts'
import { preview } from './operations/preview.ts'
import { train } from './operations/train.ts'
import { middleOf, serverChoice } from './server-route.ts'

/** Holds a client's part of the model and offers what its owner does with it. */
export async function startClientRole (context: ClientContext): Promise<RunningRole> {
  const client = await openClient(context)
  const { runtime, state, lock, verifier, fellBack } = client
  const { charter, client: { partition } } = context
  const choice = serverChoice(client)
  let stopped: Promise<void> | undefined
  return {
    status: () => ({
      blocks: clientSpans(charter, partition).filter(({ first, end }) => first < end).map(({ first, end }) => [first, end] as const),
      device: deviceLine(context.settings),
      route: choice.status(middleOf(charter, partition)),
      training: state.progress === undefined
        ? null
        : {
          active: lock.active,
          round: state.progress.round,
          done: state.progress.run?.done ?? 0,
          rounds: state.progress.run?.rounds ?? 0,
          fellBack,
          residuals: [runtime.clientModel.bottom, runtime.clientModel.top].map(({ span }) => span.residuals.report)
        },
      verification: verifier.status
    }),
    operations: {
      preview: (parameters, signal) => preview(client, parameters, signal),
      train: (parameters, signal) => train(client, parameters, signal),
      evaluate: (parameters, signal) => evaluate(client, parameters, signal),
      generate: (parameters, signal) => generate(client, parameters, signal),
      export: (parameters, signal) => exportTrained(client, parameters, signal)
    },
    stop: async () => {
      await (stopped ??= (async () => {
        await verifier.stop()
        await runtime.close()
      })())
    }
  }
}
