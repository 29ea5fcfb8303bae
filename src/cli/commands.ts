import type { Command } from './command.ts'
import { audit } from './commands/audit.ts'
import { chat } from './commands/chat.ts'
import { daemon } from './commands/daemon.ts'
import { data } from './commands/data.ts'
import { demo } from './commands/demo.ts'
import { entrust } from './commands/entrust.ts'
import { evaluate } from './commands/evaluate.ts'
import { exportTrained } from './commands/export.ts'
import { generate } from './commands/generate.ts'
import { init } from './commands/init.ts'
import { invite } from './commands/invite.ts'
import { invites } from './commands/invites.ts'
import { join } from './commands/join.ts'
import { leave } from './commands/leave.ts'
import { partition } from './commands/partition.ts'
import { peers } from './commands/peers.ts'
import { privacy } from './commands/privacy.ts'
import { promote } from './commands/promote.ts'
import { remove } from './commands/remove.ts'
import { revoke } from './commands/revoke.ts'
import { runs } from './commands/runs.ts'
import { serve } from './commands/serve.ts'
import { servers } from './commands/servers.ts'
import { status } from './commands/status.ts'
import { train } from './commands/train.ts'

/** Every command, in the order of the help and of docs/cli.md. */
export const commands: readonly Command[] = [
  init,
  invite,
  invites,
  revoke,
  join,
  leave,
  remove,
  entrust,
  promote,
  daemon,
  status,
  peers,
  servers,
  privacy,
  audit,
  data,
  train,
  runs,
  partition,
  evaluate,
  generate,
  chat,
  serve,
  exportTrained,
  demo
]
