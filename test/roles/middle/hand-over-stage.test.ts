import { setTimeout as delay } from 'node:timers/promises'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { streamPair } from '@libp2p/utils'
import { describe, expect, it } from 'vitest'
import { MidspanError } from '../../../src/errors.ts'
import { GENERATE_PROTOCOL } from '../../../src/protocols/generate/constants.ts'
import * as generate from '../../../src/protocols/generate/messages.ts'
import { HandoverError, type NeighbourSide } from '../../../src/protocols/handover/errors.ts'
import { acceptChannel, openChannel } from '../../../src/protocols/wire/channel.ts'
import { chainName } from '../../../src/roles/middle/chain-name.ts'
import { HandOverStage } from '../../../src/roles/middle/hand-over-stage.ts'
import { charter, identityOf } from '../../helpers/channels.ts'
import { statesAt } from './counting-stage.ts'

const NAMES = ['first', 'second', 'third'] as const
const SPAN = { first: 1, end: 4 }
const limits = { maxMessageBytes: 2 ** 16, maxTensorBytes: 2 ** 20, maxTensors: 16 }

/** What a server that a test plays does once its sequence has begun. */
type Play = (channel: generate.GenerateServerChannel) => Promise<void>

const silent: Play = async () => {}
const failing = (error: MidspanError, afterMs = 0): Play => async (channel) => {
  await delay(afterMs)
  channel.abort(error)
}
const lost = (side: NeighbourSide): MidspanError => new HandoverError(side, 'another', new MidspanError('E_X', 'what it saw'))
const own = new MidspanError('E_CACHE_EVICTED', 'its cache was given away', { retryable: true })

/** A chain of three servers, each of which gives the sequence its place and then does what a test says. */
async function chainOf (plays: readonly [Play, Play, Play], handsOver = true): Promise<HandOverStage> {
  const [client, server] = await Promise.all([identityOf(1), identityOf(2)])
  return new HandOverStage(plays.map((play, index) => ({
    server: NAMES[index]!,
    span: { first: SPAN.first + index, end: SPAN.first + index + 1 },
    openGeneration: async () => {
      const [outbound, inbound] = await streamPair({ protocol: GENERATE_PROTOCOL })
      const common = { protocol: GENERATE_PROTOCOL, charter, limits }
      const accepted = acceptChannel(inbound, {
        ...common,
        outgoing: generate.ServerMessageSchema,
        incoming: generate.ClientMessageSchema,
        identity: server,
        remotePeer: peerIdFromPrivateKey(client)
      })
      void accepted.then(async (channel) => {
        await channel.receive()
        await channel.send(generate.fromServer({ case: 'ready', value: { weights: 'fp32', device: 'cpu', compute: 'fp32', handsOver } }))
        await play(channel)
      }).catch(() => {})
      return await openChannel(outbound, {
        ...common,
        outgoing: generate.ClientMessageSchema,
        incoming: generate.ServerMessageSchema,
        identity: client,
        remotePeer: peerIdFromPrivateKey(server)
      })
    }
  })), { format: { wire: 'fp32', hidden: 1 }, round: 0 })
}

async function failureOf (plays: readonly [Play, Play, Play], handsOver?: boolean): Promise<unknown> {
  try {
    const cache = await (await chainOf(plays, handsOver)).openCache(SPAN, 8)
    await cache.forward(statesAt(0, 1))
    throw new Error('nothing failed')
  } catch (error) {
    return error
  }
}

describe('what a chain failed with', { timeout: 20_000 }, () => {
  it.each<[string, readonly [Play, Play, Play], string]>([
    ['the server that failed by itself', [silent, failing(own), silent], 'second'],
    ['the one that was lost, which fails a moment later', [failing(lost('next')), failing(own, 60), silent], 'second'],
    ['the one that was lost by its next, too', [silent, failing(own, 60), failing(lost('previous'))], 'second'],
    ['the two of which one lost the other, which is well', [silent, failing(lost('next')), silent], chainName(['second', 'third'])],
    ['the two that lost each other', [failing(lost('next')), failing(lost('previous')), silent], chainName(['first', 'second'])]
  ])('names %s', async (_, plays, server) => {
    expect(await failureOf(plays)).toMatchObject({ server })
  })

  it('names two servers of which the later one does not hand over, as an older release', async () => {
    expect(await failureOf([silent, silent, silent], false)).toMatchObject({ server: chainName(['second', 'third']) })
  })

  it('is the end of a server that answers where it was asked nothing', async () => {
    const talking: Play = async (channel) => { await channel.send(generate.fromServer({ case: 'hidden', value: { position: 0 } })) }
    expect(await failureOf([talking, silent, silent])).toMatchObject({ server: 'first', code: 'E_BAD_MESSAGE' })
  })
})
