import { startClientRole } from '../../roles/client/index.ts'
import type { StartClientRole, StartServerRole } from '../../roles/context.ts'
import { startServerRole } from '../../roles/server/index.ts'

/** What a daemon is composed of besides the node: the roles. */
export interface Roles {
  readonly server: StartServerRole
  readonly client: StartClientRole
}

/** What peers do. */
export const roles: Roles = { server: startServerRole, client: startClientRole }
