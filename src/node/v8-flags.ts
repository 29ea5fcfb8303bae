/**
 * Import this before anything else. From Node 24 on, V8 answers the growth of external memory (every received buffer) with full
 * mark-compact collections, which halves the throughput of streams. These two flags let it scavenge instead.
 */
import v8 from 'node:v8'

const FIRST_AFFECTED_NODE_MAJOR = 24

if (Number(process.versions.node.split('.')[0]) >= FIRST_AFFECTED_NODE_MAJOR) {
  try {
    v8.setFlagsFromString('--external-memory-accounted-in-global-limit')
    v8.setFlagsFromString('--max-semi-space-size=64')
  } catch {
    // V8's flags are no stable interface: without them Midspan is slower, not wrong.
  }
}
