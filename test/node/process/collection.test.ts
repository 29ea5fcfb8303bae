import { expect, it, vi } from 'vitest'
import { StrangersGarbage } from '../../../src/node/process/collection.ts'

it('the garbage of many connections is collected, and not too often', () => {
  let nowMs = 0
  const request = vi.fn()
  const garbage = new StrangersGarbage(request, () => nowMs)
  const close = (count: number): void => { for (let i = 0; i < count; i++) garbage.connectionClosed() }
  close(99)
  expect(request).not.toHaveBeenCalled()
  close(1)
  expect(request).toHaveBeenCalledTimes(1)
  close(500)
  expect(request).toHaveBeenCalledTimes(1)
  nowMs = 5_000
  close(1)
  expect(request).toHaveBeenCalledTimes(2)
})

it('garbage is collected by V8 itself', async () => {
  const freed = vi.fn()
  const registry = new FinalizationRegistry(freed)
  ;(() => { registry.register({ data: new Array(1000).fill(0) }, 'held by nobody') })()
  const garbage = new StrangersGarbage()
  for (let i = 0; i < 100; i++) garbage.connectionClosed()
  await vi.waitFor(() => { expect(freed).toHaveBeenCalledWith('held by nobody') }, 5_000)
})
