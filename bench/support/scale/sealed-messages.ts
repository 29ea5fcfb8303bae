import { SealedChannel } from '../../../src/protocols/wire/sealed-channel.ts'

type Send = (this: unknown, ...args: unknown[]) => Promise<void>

let sent = 0
const prototype = SealedChannel.prototype as unknown as { send: Send }
const { send } = prototype
prototype.send = async function (...args) {
  sent++
  await send.apply(this, args)
}

/** Counts the sealed messages that this process has sent since it loaded this file. */
export function sealedMessages (): number {
  return sent
}
