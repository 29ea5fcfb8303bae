/**
 * Loaded before a daemon by `node --import`: ends the process with SIGKILL at a chosen instant of its work, which DIE_AT names as
 * `Class.method:before:3` or `rename:after:3`: around the third call of that method, or the third rename of a snapshot.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { isMainThread } from 'node:worker_threads'

type Method = (...args: unknown[]) => Promise<unknown>

/** Loaded when one is named: this file is loaded by each thread of a process. */
const classes: Readonly<Record<string, () => Promise<{ readonly prototype: object }>>> = {
  ClientRound: async () => (await import('../../src/roles/client/training/client-round.ts')).ClientRound,
  ClientState: async () => (await import('../../src/roles/client/training/adapter-state.ts')).AdapterState,
  FederatedAdapters: async () => (await import('../../src/roles/training/aggregation/federated-adapters.ts')).FederatedAdapters,
  Middle: async () => (await import('../../src/roles/middle/local-stage.ts')).LocalStage,
  PartialModelStore: async () => (await import('../../src/model/checkpoint/store.ts')).PartialModelStore,
  TrainingState: async () => (await import('../../src/roles/training/coordinator-state.ts')).CoordinatorState
}

function dieAround (
  holder: Record<string, Method>,
  name: string,
  when: string,
  nth: number,
  counts: (args: unknown[]) => boolean = () => true
): void {
  const original = holder[name]
  if (original === undefined) throw new Error(`there is no ${name}`)
  let calls = 0
  holder[name] = async function (this: unknown, ...args) {
    const isIt = counts(args) && ++calls === nth
    if (isIt && when === 'before') process.kill(process.pid, 'SIGKILL')
    const result = await original.apply(this, args)
    if (isIt && when === 'after') process.kill(process.pid, 'SIGKILL')
    return result
  }
}

const [what = '', when = '', nth = ''] = process.env.DIE_AT?.split(':') ?? []
if (isMainThread && what !== '') {
  const [owner = '', method = ''] = what.split('.')
  if (what === 'rename') {
    dieAround(
      fs.promises as unknown as Record<string, Method>,
      'rename',
      when,
      Number(nth),
      ([from]) => String(from).includes('training.safetensors')
    )
    syncBuiltinESMExports()
  } else {
    const named = classes[owner]
    if (named === undefined) throw new Error(`there is no ${owner}`)
    dieAround((await named()).prototype as Record<string, Method>, method, when, Number(nth))
  }
}
