/**
 * Import this before anything else. From Node 24 on, V8 answers the growth of external memory (every received buffer) with full
 * mark-compact collections, which halves the throughput of streams. The first two flags let it scavenge instead.
 *
 * A device's thread holds little but tensors, and gives their memory back as soon as they are freed: collections find nothing there. Yet
 * their limit follows from the memory held just after the last one, a fraction more, and residuals of a training step come to several
 * times that, over and over: 5 mark-compact collections of 4 ms a step of a model 512 wide. With a limit of four times what is held,
 * there are none.
 */
import v8 from 'node:v8'

const FIRST_AFFECTED_NODE_MAJOR = 24

/** The flags; none for a Node that is better off without them. */
export const V8_FLAGS: readonly string[] = Number(process.versions.node.split('.')[0]) >= FIRST_AFFECTED_NODE_MAJOR
  ? ['--external-memory-accounted-in-global-limit', '--max-semi-space-size=64', '--heap-growing-percent=300']
  : []

try {
  for (const flag of V8_FLAGS) v8.setFlagsFromString(flag)
} catch {
  // V8's flags are no stable interface: without them Midspan is slower, not wrong.
}
