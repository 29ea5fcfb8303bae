import { describe, expect, it, vi } from 'vitest'
import { fromServer, type TrainServerChannel } from '../../../src/protocols/train/messages.ts'
import { Members } from '../../../src/roles/training/members.ts'

const SPAN = { first: 1, end: 2 }
const MESSAGE = fromServer({ case: 'withdrawn', value: {} })
/** What may wait for a member to read it. */
const MOST_UNREAD = 16

/** The server's side of a stream whose client reads when it is told to. */
function stream () {
  const waiting: Array<() => void> = []
  const abort = vi.fn<(error: Error) => void>()
  const channel = {
    send: async () => {
      await new Promise<void>((resolve) => {
        waiting.push(resolve)
      })
    },
    abort
  } as unknown as TrainServerChannel
  return {
    channel,
    abort,
    read: async () => {
      for (const taken of waiting.splice(0)) taken()
      await Promise.resolve()
    }
  }
}

function say (members: Members, peer: string, times: number): void {
  for (let i = 0; i < times; i++) members.say(peer, MESSAGE)
}

describe('a member that does not read', () => {
  it('loses its stream to E_SLOW_READER at one message more than may wait, and stays a member', async () => {
    const members = new Members(8)
    const slow = stream()
    members.enlist('slow', SPAN, slow.channel)
    say(members, 'slow', MOST_UNREAD)
    await Promise.resolve()
    expect(slow.abort).not.toHaveBeenCalled()
    say(members, 'slow', 1)
    await vi.waitFor(() => { expect(slow.abort).toHaveBeenCalledWith(expect.objectContaining({ code: 'E_SLOW_READER' })) })
    expect(members.get('slow')).toEqual({ peer: 'slow', span: SPAN, channel: undefined })
  })

  it('is told more once it has read', async () => {
    const members = new Members(8)
    const slow = stream()
    members.enlist('slow', SPAN, slow.channel)
    for (let round = 0; round < 3; round++) {
      say(members, 'slow', MOST_UNREAD)
      await slow.read()
    }
    expect(slow.abort).not.toHaveBeenCalled()
  })

  it('costs the others nothing', async () => {
    const members = new Members(8)
    const [slow, other] = [stream(), stream()]
    members.enlist('slow', SPAN, slow.channel)
    members.enlist('other', SPAN, other.channel)
    say(members, 'slow', MOST_UNREAD + 1)
    say(members, 'other', MOST_UNREAD)
    await vi.waitFor(() => { expect(slow.abort).toHaveBeenCalledOnce() })
    expect(other.abort).not.toHaveBeenCalled()
    expect(members.get('other')?.channel).toBe(other.channel)
  })

  it('starts anew on a stream of its own when it comes back', async () => {
    const members = new Members(8)
    const [slow, again] = [stream(), stream()]
    members.enlist('slow', SPAN, slow.channel)
    say(members, 'slow', MOST_UNREAD + 1)
    await vi.waitFor(() => { expect(slow.abort).toHaveBeenCalledOnce() })
    members.enlist('slow', SPAN, again.channel)
    say(members, 'slow', MOST_UNREAD)
    await Promise.resolve()
    expect(again.abort).not.toHaveBeenCalled()
  })
})
