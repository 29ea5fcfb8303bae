import type { Stream } from '@libp2p/interface'
import { streamPair } from '@libp2p/utils'
import { expect, it, onTestFinished, vi } from 'vitest'
import { UsageError } from '../../../src/errors.ts'
import { ABORT_TIMEOUT_MS } from '../../../src/protocols/wire/constants.ts'
import { ControlStream } from '../../../src/protocols/wire/control.ts'
import { FailureSchema } from '../../../src/protocols/wire/wire_pb.ts'

const refusal = { outgoing: FailureSchema, incoming: FailureSchema }

/** The order in which a stream's end and its reset were sent. */
function endsOf (stream: Stream): string[] {
  const ends: string[] = []
  const parts = stream as unknown as { sendCloseWrite: () => Promise<void>, sendReset: () => void }
  for (const name of ['sendCloseWrite', 'sendReset'] as const) {
    const send = parts[name].bind(stream) as () => Promise<void>
    vi.spyOn(parts, name).mockImplementation((async () => {
      ends.push(name)
      await send()
    }))
  }
  return ends
}

it('a refusal is followed by the end of the stream, and by no reset where the peer ends its side', async () => {
  const [near, far] = await streamPair()
  const ends = endsOf(near)
  new ControlStream(near, refusal).abort(new UsageError('not today', 'come again'))
  const reader = new ControlStream(far, refusal)
  await expect(reader.read()).rejects.toMatchObject({ code: 'E_USAGE', message: 'not today' })
  await reader.close()
  await vi.waitFor(() => { expect(near.status).toBe('closed') })
  expect(ends).toEqual(['sendCloseWrite'])
})

it('a refusal that the peer does not answer is followed by a reset after a grace', async () => {
  const [near] = await streamPair()
  const ends = endsOf(near)
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  onTestFinished(() => { vi.useRealTimers() })
  new ControlStream(near, refusal).abort(new UsageError('not today', 'come again'))
  await vi.advanceTimersByTimeAsync(ABORT_TIMEOUT_MS - 1)
  expect(ends).toEqual(['sendCloseWrite'])
  await vi.advanceTimersByTimeAsync(1)
  expect(ends).toEqual(['sendCloseWrite', 'sendReset'])
})
