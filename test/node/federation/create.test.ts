import { readFile, readdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { SafetensorsFile, writeSafetensors } from '../../../src/model/checkpoint/safetensors.ts'
import { NOISE_STEPS } from '../../../src/model/privacy/calibration.ts'
import { createFederation } from '../../../src/node/federation/create.ts'
import { homeAt } from '../../../src/node/home/home.ts'
import { verifyCharter } from '../../../src/protocols/charter/index.ts'
import { float32 } from '../../../src/tensor.ts'
import { writeTinyModel } from '../../helpers/tiny-model.ts'
import { founded, foundOptions, hasStories, temporaryDirectory } from '../fixture.ts'

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

describe('what noise costs', { skip: !hasStories }, () => {
  it('is measured on the built-in sample, returned, and signed into the charter for those who join', async () => {
    const { home, clip, noiseCost } = await founded({ clip: 'auto', noise: 0.5, inputBlocks: { min: 1, max: 1 } })
    const { charter } = await verifyCharter(await readFile(homeAt(home).charter))
    expect(charter.privacy.clip).toEqual(clip)
    expect(charter.privacy.losses?.['1']?.map(({ noise }) => noise)).toEqual([0, ...NOISE_STEPS])
    // The model writes English stories; a state that is half noise leaves it little to go by.
    expect(noiseCost!.lossWithout).toBeLessThan(5)
    expect(noiseCost!.lossWith).toBeGreaterThan(noiseCost!.lossWithout + 0.3)
    expect(noiseCost!.usefulNoise).toBeLessThan(0.5)
  })

  it("is measured on the founder's own text, which must be there before the model is read", async () => {
    const file = join(await temporaryDirectory(), 'own.txt')
    await writeFile(file, 'Once upon a time there was a small bird that lived in a tall tree.\n\nOne day the bird saw a big red ball.\n')
    const own = await founded({ calibrate: file, noise: 0 })
    expect(own.noiseCost!.lossWithout).toBeLessThan((await founded({ noise: 0 })).noiseCost!.lossWithout)
    await expect(founded({ calibrate: `${file}.absent` })).rejects.toThrow('own.txt.absent')
  })

  it('is not measured without a clip', async () => {
    const { home, noiseCost } = await founded({ clip: 'none', noise: 0 })
    expect(noiseCost).toBeNull()
    expect((await verifyCharter(await readFile(homeAt(home).charter))).charter.privacy.losses).toBeUndefined()
    await expect(founded({ clip: 'none', noise: 0, calibrate: 'text.txt' })).rejects.toMatchObject({ code: 'E_USAGE' })
  })
})
