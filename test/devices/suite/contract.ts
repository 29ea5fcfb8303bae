import { expect, it } from 'vitest'
import { Graph } from '../../../src/model/graph/graph.ts'
import { add, cast, matmul, mul } from '../../../src/model/graph/operators/index.ts'
import { program } from '../../../src/model/graph/program.ts'
import { isDeviceTensor, type DeviceTensor, type Keystream } from '../../../src/model/runtime/device.ts'
import { bytesPerElement, float32, fromBytes, tensor, type DType, type Tensor } from '../../../src/tensor.ts'
import type { Subject } from '../suite.ts'

function scaleAndAdd () {
  const graph = new Graph()
  const a = graph.input('a', 'float32', ['n'])
  const b = graph.input('b', 'float32', ['n'])
  graph.output('sum', add(a, mul(b, 2)))
  graph.output('product', mul(a, b))
  return program('scaleAndAdd', graph)
}

const values = (value: unknown) => [...(value as Tensor).data as Float32Array]

export function contract ({ device }: Subject): void {
  it('runs a program on host tensors and leaves them with the caller', async () => {
    const executable = await device().compile(scaleAndAdd())
    const a = float32([2], [1, 2])
    const { sum, product } = await executable.run({ a, b: float32([2], [10, 20]) })
    expect(values(sum)).toEqual([21, 42])
    expect(values(product)).toEqual([10, 40])
    expect([...a.data]).toEqual([1, 2])
    await executable.close()
    await expect(executable.run({ a, b: a })).rejects.toThrow('closed')
  })

  it('keeps outputs on the device and accounts for them', async () => {
    const executable = await device().compile(scaleAndAdd())
    const before = await device().memory()
    const a = await device().upload(float32([3], [1, 2, 3]))
    const { sum, product } = await executable.run({ a, b: a }, { keep: ['sum'] })
    expect(isDeviceTensor(sum!)).toBe(true)
    expect(isDeviceTensor(product!)).toBe(false)
    expect((await device().memory()).heldBytes - before.heldBytes).toBe(24)
    expect(values(await device().download(sum as DeviceTensor))).toEqual([3, 6, 9])
    device().free(a, sum as DeviceTensor)
    expect((await device().memory()).heldBytes).toBe(before.heldBytes)
    expect(() => { device().free(a) }).toThrow('is freed')
  })

  it('takes constants at compile time, large and small, from host and device', async () => {
    const graph = new Graph()
    graph.output(
      'y',
      add(matmul(graph.input('x', 'float32', ['rows', 32]), graph.input('w', 'float32', [32, 32])), graph.input('b', 'float32', [32]))
    )
    const w = new Float32Array(32 * 32)
    for (let i = 0; i < 32; i++) w[i * 33] = i
    const b = await device().upload(float32([32], new Float32Array(32).fill(0.5)))
    const executable = await device().compile(program('linear', graph), { constants: { w: float32([32, 32], w), b } })
    const { y } = await executable.run({ x: float32([1, 32], new Float32Array(32).fill(1)) })
    expect(values(y)).toEqual(Array.from({ length: 32 }, (_, i) => i + 0.5))
    await executable.close()
    device().free(b)
  })

  it.each(Object.keys(bytesPerElement) as DType[])('carries %s values in and out, of no element, one and several', async (dtype) => {
    for (const count of [0, 1, 5]) {
      const value = fromBytes(
        dtype,
        [count],
        Uint8Array.from({ length: count * bytesPerElement[dtype] }, (_, i) => dtype === 'bool' ? i % 2 : i + 1)
      )
      const held = await device().upload(value)
      expect(await device().download(held)).toEqual(value)
      device().free(held)
    }
  })

  it.each(['float32', 'float16', 'int32', 'uint32', 'int64', 'bool'] as const)(
    'makes zeros of %s, without copying them in',
    async (dtype) => {
      const before = (await device().memory()).uploadedBytes
      const held = await device().zeros(dtype, [2, 3])
      expect((await device().memory()).uploadedBytes).toBe(before)
      expect(await device().download(held)).toEqual(fromBytes(dtype, [2, 3], new Uint8Array(6 * bytesPerElement[dtype])))
      device().free(held)
    }
  )

  it('carries float16 as bits', async () => {
    const graph = new Graph()
    graph.output('y', cast(add(cast(graph.input('x', 'float16', ['n']), 'float32'), 1), 'float16'))
    const executable = await device().compile(program('half', graph))
    const { y } = await executable.run({ x: tensor('float16', [2], Uint16Array.of(0x3c00, 0x4000)) })
    expect(y).toMatchObject({ dtype: 'float16', data: Uint16Array.of(0x4000, 0x4200) })
    const held = await executable.run({ x: tensor('float16', [1], Uint16Array.of(0)) }, { keep: 'all' })
    expect((await device().download(held.y as DeviceTensor)).data).toEqual(Uint16Array.of(0x3c00))
    device().free(held.y as DeviceTensor)
    await executable.close()
  })

  it('runs programs one after another, each on what those before pass on, and holds only what the last gives', async () => {
    const executable = await device().compile(scaleAndAdd())
    const before = await device().memory()
    const ones = float32([2], [1, 1])
    const first = { executable, inputs: { a: float32([2], [1, 2]), b: ones } }
    const next = { executable, inputs: { a: { output: 'sum' }, b: { output: 'product' } } }
    const { sum, product } = await device().runSequence([first, next, { executable, inputs: { a: { output: 'sum' }, b: ones } }], {
      keep: ['sum']
    })
    expect(values(await device().download(sum as DeviceTensor))).toEqual([7, 10])
    expect(values(product)).toEqual([5, 8])
    expect((await device().memory()).heldBytes - before.heldBytes).toBe(8)
    device().free(sum as DeviceTensor)
    await expect(device().runSequence([first, { executable, inputs: { a: { output: 'none' }, b: ones } }])).rejects.toThrow(
      'takes none, which no program before it gives'
    )
    await executable.close()
  })

  it('gives what others than the last program of a chain give, where that is asked for', async () => {
    const executable = await device().compile(scaleAndAdd())
    const graph = new Graph()
    graph.output('twice', mul(graph.input('x', 'float32', ['n']), 2))
    const double = await device().compile(program('double', graph))
    const first = { executable, inputs: { a: float32([1], [1]), b: float32([1], [2]) } }
    const before = (await device().memory()).heldBytes
    const { twice, sum, product } = await device().runSequence([first, { executable: double, inputs: { x: { output: 'sum' } } }], {
      keep: ['sum'],
      also: ['sum', 'product']
    })
    expect([values(twice), values(await device().download(sum as DeviceTensor)), values(product)]).toEqual([[10], [5], [2]])
    device().free(sum as DeviceTensor)
    expect((await device().memory()).heldBytes).toBe(before)
    await expect(device().runSequence([first], { also: ['twice'] })).rejects.toThrow('twice cannot come out of a chain')
    await Promise.all([executable.close(), double.close()])
  })

  it('passes on what comes from further back', async () => {
    const graph = new Graph()
    graph.output('twice', mul(graph.input('x', 'float32', ['n']), 2))
    const [executable, double] = [await device().compile(scaleAndAdd()), await device().compile(program('double', graph))]
    const first = { executable, inputs: { a: float32([1], [1]), b: float32([1], [2]) } }
    const between = { executable: double, inputs: { x: { output: 'sum' } } }
    const { sum } = await device().runSequence([first, between, { executable, inputs: { a: { output: 'sum' }, b: { output: 'twice' } } }])
    expect(values(sum)).toEqual([25])
    await executable.close()
    await double.close()
  })

  it('counts constants as held until their program is closed', async () => {
    const graph = new Graph()
    graph.output('y', matmul(graph.input('x', 'float32', ['rows', 32]), graph.input('w', 'float32', [32, 32])))
    const w = await device().upload(float32([32, 32], new Float32Array(32 * 32).fill(1)))
    const before = await device().memory()
    const executable = await device().compile(program('linear', graph), { constants: { w } })
    const after = await device().memory()
    expect(after.heldBytes - before.heldBytes).toBe(4 * 32 * 32)
    expect(after.downloadedBytes).toBe(before.downloadedBytes)
    device().free(w)
    const { y } = await executable.run({ x: float32([1, 32], new Float32Array(32).fill(1)) })
    expect(values(y)).toEqual(new Array(32).fill(32))
    await executable.close()
    expect((await device().memory()).heldBytes).toBe(before.heldBytes - 4 * 32 * 32)
  })

  it('puts an output into the tensor that an input came from', async () => {
    const graph = new Graph()
    graph.output('y', add(graph.input('x', 'float32', ['n']), 1))
    const executable = await device().compile(program('increment', graph))
    const x = await device().zeros('float32', [4])
    for (let i = 0; i < 3; i++) expect((await executable.run({ x }, { inPlace: { y: 'x' } })).y).toBe(x)
    expect(values(await device().download(x))).toEqual([3, 3, 3, 3])
    device().free(x)
    await executable.close()
  })

  it('makes the same random bits from a key, whatever comes before, and new ones without', async () => {
    const stream = (byte: number, elements: number): Keystream => ({ key: new Uint8Array(32).fill(byte), elements })
    const bits = await Promise.all([
      device().randomBits([16, 4], [stream(7, 64)]),
      device().randomBits([23, 4], [stream(8, 28), stream(7, 64)]),
      device().randomBits([64]),
      device().randomBits([64])
    ])
    const [a, b, c, d] = await Promise.all(bits.map(async (value) => [...values(await device().download(value))]))
    expect(a).toEqual(b!.slice(28))
    expect(a!.slice(0, 28)).not.toEqual(b!.slice(0, 28))
    expect(c).not.toEqual(d)
    device().free(...bits)
  })

  it('reports a failed run with the name of its program', async () => {
    const executable = await device().compile(scaleAndAdd())
    await expect(executable.run({ a: float32([2], [1, 2]), b: float32([3], [1, 2, 3]) })).rejects.toThrow(/program scaleAndAdd failed/)
    await expect(executable.run({ a: float32([2], [1, 2]) })).rejects.toThrow('lacks its input b')
    await executable.close()
  })
}
