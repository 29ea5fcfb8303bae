import type { Model } from '../../api/openai/models.ts'
import type { Logger } from '../../roles/logger.ts'
import type { Backend } from './backend.ts'
import type { Places } from './places.ts'

/** What the routes work with. */
export interface HttpServices {
  readonly backend: Backend
  readonly places: Places
  /** The federation's model, as `/v1/models` describes it. */
  readonly model: Model
  /** The bearer token. */
  readonly token: string
  /** Names of this server, in lower case, that a Host header may have besides localhost and IP addresses. */
  readonly hosts: ReadonlySet<string>
  readonly logger: Logger
  /** The path of the daemon's log, for errors. */
  readonly log: string
  /** Aborts when the server stops. */
  readonly stopping: AbortSignal
}
