/**
 * Computes for a share of the time, on one core, until it is ended: `node test/soak/strangers-compute.ts SHARE`. Started by strangers.ts,
 * to tell what the attackers' own computing costs from what the server spends on them.
 */
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'

const share = Number(process.argv[2] ?? 1)
/** As long as the attackers' bursts are apart. */
const PERIOD_MS = 20
const bytes = randomBytes(2 ** 14)

for (;;) {
  const startMs = performance.now()
  while (performance.now() - startMs < PERIOD_MS * share) createHash('sha256').update(bytes).digest()
  await delay(Math.max(PERIOD_MS - (performance.now() - startMs), 0))
}
