import { expect, it } from 'vitest'
import { deviceLine } from '../../src/roles/charter-settings.ts'

it('a device is shown with every choice that makes the model another than float32 makes it', () => {
  const settings = { device: 'cpu', threads: undefined, compute: 'fp32', weights: 'fp32' } as const
  expect(deviceLine(settings)).toBe('cpu')
  expect(deviceLine({ ...settings, threads: 2, compute: 'int8' })).toBe('cpu (2 threads, int8 products)')
  expect(deviceLine({ ...settings, compute: 'fp16', weights: 'int4' })).toBe('cpu (int4 weights, fp16 products)')
})
