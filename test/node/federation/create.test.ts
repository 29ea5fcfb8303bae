import { readFile, readdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { SafetensorsFile, writeSafetensors } from '../../../src/model/checkpoint/safetensors.ts'
import { createFederation } from '../../../src/node/federation/create.ts'
import { float32 } from '../../../src/tensor.ts'
import { writeTinyModel } from '../../helpers/tiny-model.ts'
import { foundOptions, temporaryDirectory } from '../fixture.ts'

/** Founds a federation with a tiny model whose configuration is changed. */
async function foundWith (
  changes: Readonly<Record<string, unknown>>,
  prepare: (model: string) => Promise<void> = async () => {}
): Promise<{ home: string, founding: Promise<unknown> }> {
  const [home, model] = [await temporaryDirectory(), await temporaryDirectory()]
  await writeTinyModel(model)
  const config = JSON.parse(await readFile(join(model, 'config.json'), 'utf8')) as object
  await writeFile(join(model, 'config.json'), JSON.stringify({ ...config, ...changes }))
  await prepare(model)
  return { home, founding: createFederation(home, { ...foundOptions, model }, AbortSignal.timeout(30_000)) }
}

describe('founding a federation', () => {
  it.each([
    ['more blocks than it has', { num_hidden_layers: 6 }, 'E_TENSOR_MISSING', 'model.layers.5.'],
    ['fewer blocks than it has', { num_hidden_layers: 4 }, 'E_TENSOR_MISMATCH', 'model.layers.4.'],
    ['other sizes than it has', { hidden_size: 32 }, 'E_TENSOR_MISMATCH', 'calls for [32, 32]'],
    ['a head that it does not have', { tie_word_embeddings: false }, 'E_TENSOR_MISSING', 'lm_head.weight'],
    ['more blocks than any model has', { num_hidden_layers: 2 ** 40 }, 'E_MODEL_UNSUPPORTED', 'num_hidden_layers']
  ])('with a model whose configuration gives it %s is refused, and leaves nothing behind', async (_, changes, code, message) => {
    const { home, founding } = await foundWith(changes)
    await expect(founding).rejects.toMatchObject({ code, message: expect.stringContaining(message) as string })
    expect(await readdir(home)).toEqual([])
  })

  it('with a head beside the embedding that it is tied to is refused where they differ', async () => {
    const { founding } = await foundWith({}, async (model) => {
      const whole = join(model, 'model.safetensors')
      const names = [...(await SafetensorsFile.open(whole)).tensors.keys()]
      await rename(whole, join(model, 'blocks.safetensors'))
      await writeSafetensors(join(model, 'head.safetensors'), new Map([['lm_head.weight', float32([32, 16], new Float32Array(512))]]))
      const weightMap: Record<string, string> = { 'lm_head.weight': 'head.safetensors' }
      for (const name of names) weightMap[name] = 'blocks.safetensors'
      await writeFile(join(model, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }))
    })
    await expect(founding).rejects.toMatchObject({
      code: 'E_TENSOR_MISMATCH',
      message: expect.stringContaining('lm_head.weight differs from model.embed_tokens.weight') as string
    })
  })
})
