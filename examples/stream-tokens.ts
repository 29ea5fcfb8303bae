// A client that prints a text piece by piece, as its tokens are generated across the network.
//
//   node stream-tokens.ts [HOME [PROMPT]]                   where the package midspan is installed
//   npm run example examples/stream-tokens.ts               in a clone
//
// With a HOME, the client is the one whose daemon runs there; without, the example founds a federation of its own.
import { ControlClient, homeAt } from 'midspan'
import { startLocalFederation } from './local-federation.ts'

const [home, prompt = 'On Monday'] = process.argv.slice(2)
const signal = AbortSignal.timeout(300_000)

if (home === undefined) {
  const federation = await startLocalFederation(1, signal)
  try {
    await print(federation.clients[0]!)
  } finally {
    await federation.stop()
  }
} else {
  await print(new ControlClient(homeAt(home)))
}

async function print (client: ControlClient): Promise<void> {
  process.stdout.write(prompt)
  for await (const event of client.stream('generate', { prompt, maxTokens: 20, temperature: 0.7, topP: 0.95, seed: 1 }, signal)) {
    if (event.type === 'text') process.stdout.write(event.text)
    if (event.type === 'done') process.stdout.write(`\n${event.tokens} tokens, ${event.tokensPerSecond.toFixed(1)} a second\n`)
  }
}
