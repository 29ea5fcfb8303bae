/** Simulated peers in a process of their own. Argument: `HostSettings` as JSON. */
import '../../../src/node/process/v8-flags.ts'
import type { Answer, HostSettings, Order } from './messages.ts'
import { dialFromOwnAddresses } from './own-addresses.ts'
import { SimulatedPeers } from './peers.ts'

dialFromOwnAddresses()
const peers = new SimulatedPeers(JSON.parse(process.argv[2]!) as HostSettings)

async function answer (order: Order): Promise<Answer> {
  try {
    return await peers.ask(order)
  } catch (error) {
    return { failure: error instanceof Error ? error.stack ?? error.message : String(error) }
  }
}

process.on('message', (order: Order) => { void answer(order).then((answered) => { process.send?.(answered) }) })
process.on('disconnect', () => { void peers.stop().finally(() => { process.exit() }) })
process.send?.({})
