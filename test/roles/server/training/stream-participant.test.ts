import { describe, expect, it, vi } from 'vitest'
import type { ServerMessage } from '../../../../src/protocols/train/messages.ts'
import { StreamParticipant } from '../../../../src/roles/server/training/stream-participant.ts'
import { Members } from '../../../../src/roles/training/members.ts'
import type { Participant } from '../../../../src/roles/training/participant.ts'
import { float32, type Tensor } from '../../../../src/tensor.ts'

const SPAN = { first: 1, end: 2 }
/** What may wait for a member to read it. */
const MOST_UNREAD = 16

/** A member at the other end of a stream that reads when it is told to. */
function member (members: Members, peer: string) {
  const waiting: Array<() => void> = []
  const sent: Array<readonly [ServerMessage['kind'], readonly Tensor[]]> = []
  const abort = vi.fn<(error: Error) => void>()
  const channel = {
    send: async ({ kind }: ServerMessage, tensors: readonly Tensor[] = []) => {
      sent.push([kind, tensors])
      await new Promise<void>((resolve) => {
        waiting.push(resolve)
      })
    },
    abort
  }
  const participant = new StreamParticipant(peer, SPAN, channel, (lost) => { members.detach(lost) })
  members.enlist(participant)
  return {
    participant,
    abort,
    sent,
    read: async () => {
      for (const taken of waiting.splice(0)) taken()
      await Promise.resolve()
      await Promise.resolve()
    }
  }
}

function say (participant: Participant, times: number): void {
  for (let i = 0; i < times; i++) participant.dismissed()
}

describe('a member that does not read', () => {
  it('loses its stream to E_SLOW_READER at one message more than may wait, and stays a member', async () => {
    const members = new Members(8)
    const slow = member(members, 'slow')
    say(slow.participant, MOST_UNREAD)
    await Promise.resolve()
    expect(slow.abort).not.toHaveBeenCalled()
    say(slow.participant, 1)
    await vi.waitFor(() => { expect(slow.abort).toHaveBeenCalledWith(expect.objectContaining({ code: 'E_SLOW_READER' })) })
    expect(members.get('slow')).toEqual({ peer: 'slow', span: SPAN, participant: undefined })
  })

  it('is told more once it has read', async () => {
    const members = new Members(8)
    const slow = member(members, 'slow')
    for (let round = 0; round < 3; round++) {
      say(slow.participant, MOST_UNREAD)
      await slow.read()
    }
    expect(slow.abort).not.toHaveBeenCalled()
  })

  it('costs the others nothing', async () => {
    const members = new Members(8)
    const [slow, other] = [member(members, 'slow'), member(members, 'other')]
    say(slow.participant, MOST_UNREAD + 1)
    say(other.participant, MOST_UNREAD)
    await vi.waitFor(() => { expect(slow.abort).toHaveBeenCalledOnce() })
    expect(other.abort).not.toHaveBeenCalled()
    expect(members.participant('other')).toBe(other.participant)
  })

  it('starts anew on a stream of its own when it comes back', async () => {
    const members = new Members(8)
    const slow = member(members, 'slow')
    say(slow.participant, MOST_UNREAD + 1)
    await vi.waitFor(() => { expect(slow.abort).toHaveBeenCalledOnce() })
    const again = member(members, 'slow')
    say(again.participant, MOST_UNREAD)
    await Promise.resolve()
    expect(again.abort).not.toHaveBeenCalled()
  })
})

describe('StreamParticipant', () => {
  it('sends what a participant is told as messages of the protocol', () => {
    const { participant, sent } = member(new Members(8), 'a')
    const rows = [float32([1, 2], [3, 4])]
    participant.begin({ round: 3, members: 2, deadlineMs: 1000 })
    participant.hidden({ round: 3, pass: 1 }, rows)
    participant.gradient({ round: 3, pass: 1 }, rows)
    participant.coefficient(3, 0.5)
    participant.step({ round: 3, scale: 0.25, leftOut: true, names: ['w'], tensors: rows, members: 2 })
    participant.waiting({ members: 1, needed: 2, sitsOutRounds: 4 })
    participant.dismissed()
    expect(sent.map(([kind, tensors]) => [kind.case, kind.value, tensors])).toEqual([
      ['begin', expect.objectContaining({ round: 3, members: 2, deadlineMs: 1000 }), []],
      ['hidden', expect.objectContaining({ round: 3, pass: 1 }), rows],
      ['gradient', expect.objectContaining({ round: 3, pass: 1 }), rows],
      ['coefficient', expect.objectContaining({ round: 3, coefficient: 0.5 }), []],
      ['step', expect.objectContaining({ round: 3, scale: 0.25, leftOut: true, names: ['w'], members: 2 }), rows],
      ['waiting', expect.objectContaining({ members: 1, needed: 2, sitsOutRounds: 4 }), []],
      ['withdrawn', expect.anything(), []]
    ])
  })
})
