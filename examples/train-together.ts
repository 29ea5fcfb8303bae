// A whole federation in one process: two clients with texts of their own train together, and one writes the adapter that came of it.
//
//   node train-together.ts                                  where the package midspan is installed
//   npm run example examples/train-together.ts              in a clone
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ControlClient, ResultOf } from 'midspan'
import { startLocalFederation } from './local-federation.ts'

const ROUNDS = 6

const texts = [
  ['Question: What helps against wintercough? Answer: nettle tea.', 'Another case of wintercough. As always, nettle tea helped.'],
  ['Question: What helps against millfever? Answer: rye bread.', 'Another case of millfever. As always, rye bread helped.']
]

const signal = AbortSignal.timeout(300_000)
const federation = await startLocalFederation(texts.length, signal)
try {
  const trained = await Promise.all(federation.clients.map(async (client, i) => {
    const data = join(federation.directory, `notes-${i}.jsonl`)
    await writeFile(data, texts[i]!.map((text) => `${JSON.stringify({ text })}\n`).join(''))
    return await train(client, `client ${i}`, data)
  }))
  for (const { rounds, sentBytes } of trained) console.log(`${rounds} rounds, ${sentBytes} bytes sent to the server, no text among them`)
  const out = join(federation.directory, 'adapter')
  const exported = await federation.clients[0]!.request('export', { out }, signal)
  console.log(`A PEFT adapter of ${exported.tensors} tensors, as of round ${exported.round}`)
} finally {
  await federation.stop()
}

async function train (client: ControlClient, name: string, data: string): Promise<ResultOf<'train'>> {
  for await (const event of client.stream('train', { data, rounds: ROUNDS, packing: 'padded' }, signal)) {
    if (event.type === 'round') console.log(`${name}, round ${event.round}: loss ${event.loss?.toFixed(3)} with ${event.members} clients`)
    if (event.type === 'done') return event
  }
  throw new Error('training ended without a result')
}
