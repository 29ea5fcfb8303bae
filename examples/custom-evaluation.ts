// A task of one's own: records become questions, the federated model answers them through the network, and the answers are judged.
// The questions and the answers stay in the client's process; the server sees protected hidden states.
//
//   node custom-evaluation.ts                               where the package midspan is installed
//   npm run example examples/custom-evaluation.ts           in a clone
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Task } from 'midspan'
import { startLocalFederation } from './local-federation.ts'

const records = [
  { ailment: 'wintercough', helps: ['goosewort', 'lowmint'] },
  { ailment: 'millfever', helps: ['rye bread'] }
]

/** How a record is asked, and where its right answers are. What is not said here is as the kind `qa` has it. */
const task: Task = {
  kind: 'qa',
  prompt: 'Question: What helps against {ailment}? Answer:',
  answer: 'helps',
  metrics: ['exact-match', 'token-f1'],
  maxNewTokens: 6
}

const signal = AbortSignal.timeout(300_000)
const federation = await startLocalFederation(1, signal)
try {
  const data = join(federation.directory, 'questions.jsonl')
  await writeFile(data, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  const [client] = federation.clients
  for await (const event of client!.stream('evaluateTask', { data, task }, signal)) {
    if (event.type === 'prediction') console.log(`${event.prediction} (right: ${event.references.join(' or ')})`)
    if (event.type === 'result')
      for (const { metric, value, low, high } of event.metrics)
        console.log(`${metric}: ${value?.toFixed(2)} (${low?.toFixed(2)} to ${high?.toFixed(2)}) over ${event.records} questions`)
  }
} finally {
  await federation.stop()
}
