import { describe, expect, it } from 'vitest'
import { chooseDevice, type DeviceWish, type Trials } from '../../../src/model/runtime/device-choice.ts'
import { tryOut } from '../../../src/model/runtime/device-trial.ts'
import type { ComputeType, DeviceKind } from '../../../src/model/runtime/device.ts'
import { isSoftwareDriver, vulkanDrivers } from '../../../src/model/runtime/vulkan.ts'

const MISSING = { what: 'there is none', next: 'install one' }

/** A machine whose devices multiply at these speeds; a text is why one fails, and what is not named is missing. */
function machine (speeds: Partial<Record<DeviceKind, number | string>>, software = false): Trials {
  return {
    missing: (kind) => kind in speeds ? undefined : MISSING,
    onlySoftware: () => software,
    tried: async (kind) => {
      const found = speeds[kind]
      return typeof found === 'number' ? { works: true, gflops: found } : { works: false, why: found ?? 'missing' }
    }
  }
}

const choose = async (wish: DeviceWish, trials: Trials, compute: ComputeType = 'fp32') =>
  await chooseDevice(wish, compute, undefined, trials)

describe('the device', () => {
  it.each(
    [
      ['a GPU over WebGPU first', machine({ cpu: 50, webgpu: 9000, cuda: 100 }), 'webgpu', '9000 GFLOP/s, the CPU 50 GFLOP/s'],
      [
        'CUDA where WebGPU fails, with what it costs',
        machine({ cpu: 50, webgpu: 'no adapter', cuda: 100 }),
        'cuda',
        /^100 GFLOP\/s, the CPU 50 GFLOP\/s; weights .* cross the bus in every run.*; webgpu: no adapter$/
      ],
      [
        'the CPU where it is faster',
        machine({ cpu: 50, webgpu: 0.12, cuda: 49 }),
        'cpu',
        'webgpu: slower than the CPU (0.1 GFLOP/s to 50 GFLOP/s); cuda: slower than the CPU (49 GFLOP/s to 50 GFLOP/s)'
      ],
      [
        'the CPU rather than a software driver',
        machine({ cpu: 50, webgpu: 1 }, true),
        'cpu',
        'webgpu: the only Vulkan driver computes on the CPU; cuda: there is none'
      ],
      ['the CPU where there is nothing else', machine({ cpu: 50 }), 'cpu', 'webgpu: there is none; cuda: there is none']
    ] as const
  )('is, left to choose, %s', async (_, trials, kind, reason) => {
    expect(await choose('auto', trials)).toEqual({
      kind,
      reason: typeof reason === 'string' ? reason : expect.stringMatching(reason) as string
    })
  })

  it('is the one asked for, even on a software driver', async () => {
    expect(await choose('webgpu', machine({ cpu: 50, webgpu: 0.1 }, true))).toEqual({
      kind: 'webgpu',
      reason: 'as set; 0.1 GFLOP/s; a driver that computes on the CPU'
    })
    expect(await choose('cpu', machine({ webgpu: 9000 }))).toEqual({ kind: 'cpu', reason: 'as set' })
  })

  it('is refused by name where it cannot work', async () => {
    await expect(choose('cuda', machine({ cpu: 50 }))).rejects.toMatchObject({
      code: 'E_DEVICE',
      message: 'the device cuda cannot be used: there is none',
      next: 'install one, or choose another device'
    })
    await expect(choose('webgpu', machine({ webgpu: 'no adapter' }))).rejects.toThrow('the device webgpu cannot be used: no adapter')
  })

  it('is the CPU for int8 products, which no other has', async () => {
    expect(await choose('auto', machine({ cpu: 50, webgpu: 9000 }), 'int8')).toEqual({ kind: 'cpu', reason: "int8 products are the CPU's" })
    expect(await choose('cpu', machine({}), 'int8')).toEqual({ kind: 'cpu', reason: 'as set' })
    await expect(choose('webgpu', machine({ webgpu: 9000 }), 'int8')).rejects.toMatchObject({
      code: 'E_DEVICE',
      message: 'the device webgpu has no int8 products',
      next: 'take the device cpu, or compute in fp32 or fp16'
    })
  })
})

it('a trial measures what works', async () => {
  expect(await tryOut('cpu')).toMatchObject({ works: true, gflops: expect.any(Number) as number })
})

it('Vulkan drivers are those that the loader is told of', () => {
  expect(vulkanDrivers({ VK_DRIVER_FILES: '/a/nvidia_icd.json:/b/vk_swiftshader_icd.json' })).toEqual([
    '/a/nvidia_icd.json',
    '/b/vk_swiftshader_icd.json'
  ])
  expect(['/a/nvidia_icd.json', '/b/vk_swiftshader_icd.json', '/c/lvp_icd.x86_64.json'].map(isSoftwareDriver)).toEqual([false, true, true])
})
