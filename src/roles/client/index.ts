import { deviceLine, clientSpans } from '../charter-settings.ts'
import { roleComponents, type RoleComponents } from '../components.ts'
import type { ClientContext, RunningRole } from '../context.ts'
import { CurrentClient } from './current-client.ts'
import { auditSweep } from './operations/audit-sweep.ts'
import { audit } from './operations/audit.ts'
import { evaluateTask } from './operations/evaluate-task.ts'
import { evaluate } from './operations/evaluate.ts'
import { exportTrained } from './operations/export.ts'
import { generate } from './operations/generate.ts'
import { preview } from './operations/preview.ts'
import { privacy } from './operations/privacy.ts'
import { train } from './operations/train.ts'
import { checkLosses, noteOnChange } from './partition-progress.ts'
import { middleOf, serverChoice } from './server-route.ts'

/** Holds a client's part of the model and offers what its owner does with it. */
export async function startClientRole (context: ClientContext, components: RoleComponents = roleComponents): Promise<RunningRole> {
  const current = await CurrentClient.open(context, components)
  const { charter } = context
  let stopped: Promise<void> | undefined
  return {
    status: () => {
      const { context: { client: { partition } }, state, lock, runtime, verifier, fellBack } = current.client
      return {
        blocks: clientSpans(charter, partition).filter(({ first, end }) => first < end).map(({ first, end }) => [first, end] as const),
        device: deviceLine(context.settings),
        route: serverChoice(current.client).status(middleOf(charter, partition)),
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
      }
    },
    operations: {
      preview: (parameters, signal) => current.use((client) => preview(client, parameters, signal), signal),
      privacy: (parameters, signal) => current.use((client) => privacy(client, parameters), signal),
      audit: (parameters, signal) => current.use((client) => audit(client, parameters, signal), signal),
      auditSweep: (parameters, signal) => current.use((client) => auditSweep(client, parameters, signal), signal),
      train: (parameters, signal) => train(current, parameters, signal),
      evaluate: (parameters, signal) => current.use((client) => evaluate(client, parameters, signal), signal),
      evaluateTask: (parameters, signal) => current.use((client) => evaluateTask(client, parameters, signal), signal),
      generate: (parameters, signal) => current.use((client) => generate(client, parameters, signal), signal),
      export: (parameters, signal) => current.use((client) => exportTrained(client, parameters, signal), signal)
    },
    partition: {
      check: (partition, discard) => { checkLosses(charter, current.client.state.progress, partition, discard) },
      note: (before, after) => noteOnChange(charter, current.client.state.progress, before, after),
      change: async (settings, commit, signal) => { await current.change(settings, commit, signal) }
    },
    stop: async () => { await (stopped ??= current.close()) }
  }
}
