import type { Context } from 'hono'
import type { Health } from '../../../api/openai/models.ts'
import type { HttpServices } from '../services.ts'

/** A daemon answers such a question by itself. */
const ANSWER_TIMEOUT_MS = 5_000

/** Tells whether the daemon is ready, and nothing else: whoever asks needs no token. */
export async function health (context: Context, { backend, stopping }: HttpServices): Promise<Response> {
  const ready = await isReady(backend, AbortSignal.any([context.req.raw.signal, stopping, AbortSignal.timeout(ANSWER_TIMEOUT_MS)]))
  return context.json<Health>({ status: ready ? 'ok' : 'unavailable' }, ready ? 200 : 503)
}

async function isReady (backend: HttpServices['backend'], signal: AbortSignal): Promise<boolean> {
  try {
    for await (const status of backend.stream('status', {}, signal)) return status.starting === undefined
    return false
  } catch {
    return false
  }
}
