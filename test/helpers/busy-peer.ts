/** A process that answers over a sealed channel, and on "block <ms>" holds its event loop for so long before it does. */
import { acceptChannel } from '../../src/protocols/wire/channel.ts'
import { identityOf, textOptions } from './channels.ts'
import { startTestNode } from './nodes.ts'

const node = await startTestNode({ privateKey: await identityOf(2), connectionMonitor: { pingInterval: 1000 } })
const { server } = await textOptions()
await node.handle('/midspan/test/1', (stream) => {
  void acceptChannel(stream, server).then(async (channel) => {
    for (;;) {
      const { message } = await channel.receive()
      const until = performance.now() + Number(message.value.split(' ')[1] ?? 0)
      while (performance.now() < until);
      await channel.send(message)
    }
  }).catch(() => {})
})
process.send?.(node.getMultiaddrs().map(String))
