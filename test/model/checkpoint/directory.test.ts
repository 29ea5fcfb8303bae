import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MidspanError } from '../../../src/errors.ts'
import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import { fingerprint } from '../../../src/model/checkpoint/fingerprint.ts'
import { writeSafetensors } from '../../../src/model/checkpoint/safetensors.ts'
import { float32, tensor } from '../../../src/tensor.ts'

const stories = join(process.env.MIDSPAN_TEST_DATA ?? '../shared/data', 'stories260K-hf')

let dir: string
beforeAll(async () => { dir = await mkdtemp(join(tmpdir(), 'midspan-directory-')) })
afterAll(async () => { await rm(dir, { recursive: true }) })

/** A fresh directory with these text files. */
async function directory (name: string, files: Record<string, unknown>): Promise<string> {
  const path = join(dir, name)
  await mkdir(path)
  for (const [file, content] of Object.entries(files))
    await writeFile(join(path, file), typeof content === 'string' ? content : JSON.stringify(content))
  return path
}

describe('opening a model directory', () => {
  it.each([
    ['nothing', {}, 'no config.json'],
    ['a broken configuration', { 'config.json': '{' }, 'config.json is not valid JSON'],
    ['a configuration that is a list', { 'config.json': [] }, 'does not hold a JSON object'],
    ['a quantised model', { 'config.json': { quantization_config: { bits: 4 } } }, 'quantization_config'],
    ['a quantised model of an old quantiser', { 'config.json': {}, 'quantize_config.json': {} }, 'quantize_config.json'],
    ['a model in another format', { 'config.json': {}, 'model-q4.gguf': '' }, 'weights as model-q4.gguf'],
    ['pickles only', { 'config.json': {}, 'pytorch_model.bin': '' }, 'pickles only'],
    ['no weights', { 'config.json': {} }, 'no model.safetensors'],
    ['shards without their index', { 'config.json': {}, 'model-00001-of-00002.safetensors': '' }, 'no model.safetensors.index.json'],
    ['an index that names a file elsewhere', {
      'config.json': {},
      'model.safetensors.index.json': { weight_map: { a: '../secret.safetensors' } }
    }, 'lacks "../secret.safetensors"'],
    [
      'an index that names an absolute path',
      { 'config.json': {}, 'model.safetensors.index.json': { weight_map: { a: '/etc/passwd' } } },
      'lacks "/etc/passwd"'
    ],
    [
      'an index that names the directory above',
      { 'config.json': {}, 'model.safetensors.index.json': { weight_map: { a: '..' } } },
      'lacks ".."'
    ],
    ['an index that names a file deeper than can be shown', {
      'config.json': {},
      'model.safetensors.index.json': `{"weight_map":{"a":${'['.repeat(1e5)}${']'.repeat(1e5)}}}`
    }, 'lacks an array too deep to show'],
    ['an index that names no file', { 'config.json': {}, 'model.safetensors.index.json': { weight_map: { a: 3 } } }, 'lacks 3'],
    ['an index without a map', { 'config.json': {}, 'model.safetensors.index.json': {} }, 'no weight_map']
  ])('refuses %s by name', async (what, files, message) => {
    const path = await directory(what, files)
    const failure = openModelDirectory(path)
    await expect(failure).rejects.toThrow(message)
    await expect(failure).rejects.toMatchObject({ code: 'E_MODEL_DIRECTORY', message: expect.stringContaining(path) as string })
  })

  it('follows calls to files, as the hub\'s cache has them, and names those that lead nowhere or to no file', async () => {
    const blobs = await directory('blobs', {})
    await writeSafetensors(join(blobs, 'blob'), new Map([['a', float32([1], [1])]]))
    await writeFile(join(blobs, 'config'), '{}')
    const linked = await directory('linked', {})
    await symlink(join(blobs, 'config'), join(linked, 'config.json'))
    await symlink(join(blobs, 'blob'), join(linked, 'model.safetensors'))
    expect((await openModelDirectory(linked)).tensorNames()).toEqual(['a'])
    await rm(join(blobs, 'blob'))
    await expect(openModelDirectory(linked)).rejects.toMatchObject({
      code: 'E_SAFETENSORS',
      message: expect.stringContaining(`${join(linked, 'model.safetensors')} cannot be read`) as string
    })
    await rm(join(blobs, 'config'))
    await expect(openModelDirectory(linked)).rejects.toMatchObject({
      code: 'E_MODEL_DIRECTORY',
      message: expect.stringContaining('config.json cannot be read') as string
    })
    await mkdir(join(blobs, 'config'))
    await expect(openModelDirectory(linked)).rejects.toThrow('config.json is no file')
  })

  it.skipIf(process.platform === 'win32')('does not wait for a pipe', async () => {
    const path = await directory('pipe', { 'config.json': {} })
    execFileSync('mkfifo', [join(path, 'model.safetensors')])
    await expect(openModelDirectory(path)).rejects.toThrow('model.safetensors is no file')
  })

  it('refuses a tensor that two files hold', async () => {
    const path = await directory('twice', {
      'config.json': {},
      'model.safetensors.index.json': { weight_map: { a: '1.safetensors', b: '2.safetensors' } }
    })
    await writeSafetensors(join(path, '1.safetensors'), new Map([['a', float32([1], [1])]]))
    await writeSafetensors(join(path, '2.safetensors'), new Map([['a', float32([1], [2])], ['b', float32([1], [3])]]))
    await expect(openModelDirectory(path)).rejects.toThrow(
      `${join(path, '2.safetensors')} holds tensor a too, which the index places in 1.safetensors`
    )
  })

  it('reads sharded weights through the index and leaves rotary tables out', async () => {
    const weightMap = {
      'b.weight': 'model-00001-of-00002.safetensors',
      'a.weight': 'model-00002-of-00002.safetensors',
      'x.rotary_emb.inv_freq': 'gone.safetensors'
    }
    const path = await directory('sharded', { 'config.json': {}, 'model.safetensors.index.json': { weight_map: weightMap } })
    await writeSafetensors(
      join(path, 'model-00001-of-00002.safetensors'),
      new Map([['b.weight', tensor('float16', [2], Uint16Array.of(0x3c00, 0xc000))]])
    )
    await writeSafetensors(join(path, 'model-00002-of-00002.safetensors'), new Map([['a.weight', float32([1, 1], [5])]]))
    const model = await openModelDirectory(path)
    expect(model.tensorNames()).toEqual(['a.weight', 'b.weight'])
    expect(model.info('b.weight')).toEqual({ dtype: 'F16', shape: [2], bytes: 4, file: 'model-00001-of-00002.safetensors' })
    expect(await model.read('b.weight')).toEqual(float32([2], [1, -2]))
    expect(await model.readRaw('b.weight', 2, 2)).toEqual(Uint8Array.of(0x00, 0xc0))
    expect(() => model.info('c.weight')).toThrow('no tensor named c.weight')
    await writeSafetensors(join(path, 'model-00002-of-00002.safetensors'), new Map([['z', float32([1], [5])]]))
    await expect(openModelDirectory(path)).rejects.toThrow('lacks tensor a.weight')
  })
})

it('a directory either opens or is refused with an error of its own, whatever its files hold', async () => {
  const path = await directory('fuzzed', {})
  const index = JSON.stringify({ metadata: { total_size: 12 }, weight_map: { a: '1.safetensors', b: '2.safetensors' } })
  const config = JSON.stringify({ model_type: 'llama', hidden_size: 8 })
  await writeSafetensors(join(path, '1.safetensors'), new Map([['a', float32([2], [1, 2])]]))
  await writeSafetensors(join(path, '2.safetensors'), new Map([['b', float32([1], [3])]]))
  const files = new Map<string, Buffer>([['config.json', Buffer.from(config)], ['model.safetensors.index.json', Buffer.from(index)]])
  for (const name of ['1.safetensors', '2.safetensors']) files.set(name, await readFile(join(path, name)))
  const change = fc.record({ file: fc.constantFrom(...files.keys()), at: fc.nat(), bytes: fc.uint8Array({ maxLength: 4 }), cut: fc.nat(9) })
  await fc.assert(fc.asyncProperty(fc.array(change, { maxLength: 3 }), async (changes) => {
    for (const [name, bytes] of files) await writeFile(join(path, name), bytes)
    for (const { file, at, bytes, cut } of changes) {
      const broken = Buffer.from(files.get(file)!)
      bytes.forEach((byte, i) => { broken[(at + i) % broken.length] = byte })
      await writeFile(join(path, file), broken.subarray(0, broken.length - cut))
    }
    try {
      const opened = await openModelDirectory(path)
      for (const name of opened.tensorNames()) await opened.read(name)
    } catch (error) {
      expect(error).toBeInstanceOf(MidspanError)
    }
  }), { numRuns: 120 })
})

describe('a fingerprint', () => {
  it('covers each tensor and companion file, and does not depend on how tensors are spread over files', async () => {
    const [a, b] = [float32([2], [1, 2]), float32([1], [3])]
    const whole = await directory('whole', { 'config.json': '{}', 'tokenizer.json': '{"x":1}', 'notes.txt': 'mine' })
    await writeSafetensors(join(whole, 'model.safetensors'), new Map([['a', a], ['b', b]]))
    const split = await directory('split', {
      'config.json': '{}',
      'tokenizer.json': '{"x":1}',
      'model.safetensors.index.json': { weight_map: { a: '1.safetensors', b: '2.safetensors' } }
    })
    await writeSafetensors(join(split, '1.safetensors'), new Map([['a', a]]))
    await writeSafetensors(join(split, '2.safetensors'), new Map([['b', b]]))
    let hashed = 0
    const print = await fingerprint(await openModelDirectory(whole), (bytes) => { hashed += bytes })
    expect(print).toEqual(await fingerprint(await openModelDirectory(split)))
    expect(Object.keys(print.files)).toEqual(['config.json', 'tokenizer.json'])
    expect(print.tensors.a).toEqual({
      dtype: 'F32',
      shape: [2],
      bytes: 8,
      sha256: createHash('sha256').update(new Uint8Array(a.data.buffer as ArrayBuffer)).digest('hex')
    })
    expect(hashed).toBe(8 + 4 + 2 + 7)
  })
})

describe.skipIf(!existsSync(stories))('a real model (stories260K)', () => {
  it('opens, with its shapes and values', async () => {
    const model = await openModelDirectory(stories)
    expect(model.config.model_type).toBe('llama')
    expect(model.generationConfig?.eos_token_id).toEqual([1, 2])
    expect(model.info('model.embed_tokens.weight')).toEqual({ dtype: 'F32', shape: [512, 64], bytes: 131072, file: 'model.safetensors' })
    const { data } = await model.read('model.norm.weight')
    expect(data.length).toBe(64)
    expect([...data as Float32Array].every(Number.isFinite)).toBe(true)
  })
})
