// A task of one's own: questions are put to the federated model through the network, and the share of right answers is the measure.
// The questions and the answers stay in the client's process; the server sees protected hidden states.
//
//   node custom-evaluation.ts                               where the package midspan is installed
//   npm run example examples/custom-evaluation.ts           in a clone
import type { ControlClient } from 'midspan'
import { startLocalFederation } from './local-federation.ts'

interface Item {
  readonly prompt: string
  readonly answer: string
}

const task: readonly Item[] = [
  { prompt: 'Question: What helps against wintercough? Answer:', answer: 'goosewort' },
  { prompt: 'Question: What helps against millfever? Answer:', answer: 'rye bread' }
]

const signal = AbortSignal.timeout(300_000)
const federation = await startLocalFederation(1, signal)
try {
  const [client] = federation.clients
  console.log(`Accuracy: ${(await accuracy(client!, task)).toFixed(2)} over ${task.length} questions`)
} finally {
  await federation.stop()
}

/** Asks each question once, always taking the likeliest token. Returns the share of answers that begin with the right one, 0 to 1. */
async function accuracy (client: ControlClient, items: readonly Item[]): Promise<number> {
  let right = 0
  for (const { prompt, answer } of items) {
    const { text } = await client.request('generate', { prompt, maxTokens: 6 }, signal)
    console.log(`${prompt}${text}`)
    if (text.trim().startsWith(answer)) right++
  }
  return right / items.length
}
