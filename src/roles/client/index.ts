import { deviceLine, clientSpans } from '../charter-settings.ts'
import type { ClientContext, RunningRole } from '../context.ts'
import { evaluate } from './operations/evaluate.ts'
import { exportTrained } from './operations/export.ts'
import { generate } from './operations/generate.ts'
import { train } from './operations/train.ts'
import { ClientRuntime } from './runtime.ts'

/** Holds a client's ends and offers what their owner does with them. */
export async function startClientRole (context: ClientContext): Promise<RunningRole> {
  const core = await ClientRuntime.open(context)
  const { charter, client: { partition } } = context
  let stopped: Promise<void> | undefined
  return {
    status: () => ({
      blocks: clientSpans(charter, partition).filter(({ first, end }) => first < end).map(({ first, end }) => [first, end] as const),
      device: deviceLine(context.settings),
      training: core.progress === undefined
        ? null
        : {
          active: core.training,
          round: core.progress.round,
          done: core.progress.run?.done ?? 0,
          rounds: core.progress.run?.rounds ?? 0,
          residuals: [core.ends.bottom, core.ends.top].map(({ span }) => span.residuals.report)
        }
    }),
    operations: {
      train: (parameters, signal) => train(core, parameters, signal),
      evaluate: (parameters, signal) => evaluate(core, parameters, signal),
      generate: (parameters, signal) => generate(core, parameters, signal),
      export: (parameters, signal) => exportTrained(core, parameters, signal)
    },
    stop: async () => { await (stopped ??= core.close()) }
  }
}
