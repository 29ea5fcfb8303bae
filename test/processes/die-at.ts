/**
 * Loaded before a daemon by `node --import`: ends the process with SIGKILL at a chosen instant of its work, which DIE_AT names as
 * `Class.method:before:3` or `rename:after:3`: around the third call of that method, or the third rename of a snapshot.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { isMainThread } from 'node:worker_threads'
import { PartialModelStore } from '../../src/model/checkpoint/store.ts'
import { CurrentClient } from '../../src/roles/client/current-client.ts'
import { AdapterState } from '../../src/roles/client/training/adapter-state.ts'
import { ClientRound } from '../../src/roles/client/training/client-round.ts'
import { LocalStage } from '../../src/roles/middle/local-stage.ts'
import { FederatedAdapters } from '../../src/roles/training/aggregation/federated-adapters.ts'
import { CoordinatorState } from '../../src/roles/training/coordinator-state.ts'

type Method = (...args: unknown[]) => Promise<unknown>

const classes: Readonly<Record<string, object>> = {
  ClientRound: ClientRound.prototype,
  ClientState: AdapterState.prototype,
  CurrentClient: CurrentClient.prototype,
  FederatedAdapters: FederatedAdapters.prototype,
  Middle: LocalStage.prototype,
  PartialModelStore: PartialModelStore.prototype,
  TrainingState: CoordinatorState.prototype
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
    dieAround(classes[owner] as Record<string, Method>, method, when, Number(nth))
  }
}
