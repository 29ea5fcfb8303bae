import type { ClientSessions } from '../sessions.ts'

/** How long a goodbye may take. */
const WITHDRAW_TIMEOUT_MS = 5_000

/**
 * Takes this client out of the rounds, so that nobody waits for it. A server that does not answer in time goes on without the client after
 * the deadline of a round.
 */
export async function withdraw (sessions: Pick<ClientSessions, 'training'>): Promise<void> {
  const signal = AbortSignal.timeout(WITHDRAW_TIMEOUT_MS)
  try {
    const stream = await sessions.training(signal)
    await stream.send({ case: 'withdraw', value: {} }, [], signal)
    while ((await stream.receive(signal)).message.kind.case !== 'withdrawn');
    await stream.close(signal)
  } catch {
    // The server is gone, or hears of it by the deadline.
  }
}
