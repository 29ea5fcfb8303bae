import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { concatRows, sequencesOf, sliceRows } from '../../../src/model/layers/hidden-states.ts'
import type { AdapterSettings } from '../../../src/model/layers/lora.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { loadClientModel } from '../../../src/model/training/client-model.ts'
import { LocalTrainer } from '../../../src/model/training/local-trainer.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { answersOf, chatglmRevisions, readChatGLMGolden } from '../../helpers/chatglm.ts'
import { baseWeights, decodeTensor, loraWeights, relativeError, type EncodedTensor } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const values = async (value: DeviceTensor): Promise<ArrayLike<number>> => (await device.download(value)).data as Float32Array
const error = async (actual: DeviceTensor, expected: EncodedTensor): Promise<number> =>
  relativeError(await values(actual), decodeTensor(expected).data as Float32Array)

function setUp (revision: typeof chatglmRevisions[number]) {
  const golden = readChatGLMGolden(revision)
  const model = modelOf(golden.config)
  const batch = answersOf(golden.ids)
  const trainable: AdapterSettings = { ...golden.lora, dropout: 0, rslora: false, seed: 'test' }
  return {
    golden,
    model,
    batch,
    sequences: sequencesOf(model, batch.ids),
    source: memorySource(baseWeights(golden)),
    trainable,
    lora: loraWeights(golden)
  }
}

describe.each(chatglmRevisions)('the original ChatGLM, revision %s', (revision) => {
  it('passes the hidden states of every block', async () => {
    const { golden, model, sequences, source, trainable } = setUp(revision)
    const span = await TrainableSpan.load(device, model, source, { first: 0, end: model.layers }, trainable)
    for (let layer = 0; layer < model.layers; layer++) {
      const { hidden } = await span.forward({ hidden: decodeTensor(golden.hidden[layer]!), ...sequences }, {
        keepResiduals: false,
        first: layer,
        end: layer + 1
      })
      expect(await error(hidden, golden.hidden[layer + 1]!)).toBeLessThan(2e-6)
      device.free(hidden)
    }
    span.free()
  })

  it.each([[0, 0], [1, 0], [1, 1], [0, 3], [2, 1]])(
    'has the logits, the loss and all gradients cut as %i | … | %i',
    async (inputBlocks, outputBlocks) => {
      const { golden, model, batch, sequences, source, trainable, lora } = setUp(revision)
      const { bottom, top, weights } = await loadClientModel(device, model, source, { inputBlocks, outputBlocks }, trainable)
      const middle = await TrainableSpan.load(device, model, source, { first: inputBlocks, end: model.layers - outputBlocks }, trainable)
      for (const set of [weights, middle.weights]) await set.setTrained(new Map([...lora].filter(([name]) => set.trained.has(name))))

      const up = await bottom.forward(batch.ids, { keepResiduals: true })
      const across = await middle.forward({ hidden: up.hidden, ...sequences }, { keepResiduals: true })
      const rows = { hidden: across.hidden, ...sequences }
      const logits = await top.logits(rows, Array.from({ length: across.hidden.shape[0]! }, (_, i) => i))
      expect(relativeError(logits.data as Float32Array, decodeTensor(golden.loraLogits).data as Float32Array)).toBeLessThan(1e-5)
      const { lossSum, gradient, gradients } = await top.train(rows, batch.targets)
      expect(lossSum / golden.loraLoss).toBeCloseTo(1, 5)
      expect((await top.evaluate(rows, batch.targets)).lossSum).toBeCloseTo(lossSum, 4)

      expect(await error(gradient, golden.hiddenGradients[model.layers - outputBlocks]!)).toBeLessThan(2e-5)
      const back = await middle.backward(across.residuals!, gradient)
      expect(await error(back.gradient, golden.hiddenGradients[inputBlocks]!)).toBeLessThan(2e-5)
      const all = new Map([...await bottom.backward(up.residuals!, back.gradient), ...back.adapters, ...gradients])
      expect([...all.keys()].sort()).toEqual(Object.keys(golden.gradients).sort())
      for (const [name, value] of all) expect(await error(value, golden.gradients[name]!), name).toBeLessThan(2e-5)
      weights.free()
      middle.free()
    }
  )

  it('ends 50 AdamW steps at the same adapters', async () => {
    const { golden: { training: { ids, adamw, sequencesPerStep, losses, final } }, model, source, trainable, lora } = setUp(revision)
    const { lr, betas: [beta1, beta2], eps, weightDecay } = adamw
    const trainer = await LocalTrainer.load(device, model, source, { trainable, optimizer: { beta1, beta2, epsilon: eps, weightDecay } })
    await trainer.parameters.restore(lora)
    for (const [step, expected] of losses.entries()) {
      const first = step * sequencesPerStep % ids.length
      const { lossSum, countedTokens } = await trainer.step([answersOf(ids.slice(first, first + sequencesPerStep))], { learningRate: lr })
      expect(lossSum / countedTokens).toBeCloseTo(expected, 4)
    }
    for (const [name, value] of await trainer.values())
      expect(relativeError(value.data as Float32Array, decodeTensor(final[name]!).data as Float32Array), name).toBeLessThan(1e-4)
    trainer.free()
  })

  it('computes the same for rows that enter within the span, beside others of another context', async () => {
    const { golden, model, sequences: { lengths, contexts }, source, trainable } = setUp(revision)
    const span = await TrainableSpan.load(device, model, source, { first: 0, end: model.layers }, trainable)
    const { hidden: first } = await span.forward({ hidden: decodeTensor(golden.hidden[0]!), lengths, contexts }, {
      keepResiduals: false,
      end: 1
    })
    const second = await span.forward({ hidden: first, lengths, contexts }, { keepResiduals: false, first: 1 })
    expect(await error(second.hidden, golden.hidden[model.layers]!)).toBeLessThan(4e-6)
    const [start, end] = [lengths[0]!, lengths[0]! + lengths[1]!]
    const alone = await span.forward({
      hidden: await concatRows(device, [await sliceRows(device, first, start, end)]),
      lengths: [lengths[1]!],
      contexts: [contexts![1]!]
    }, { keepResiduals: false, first: 1 })
    expect(relativeError(await values(alone.hidden), await values(await sliceRows(device, second.hidden, start, end)))).toBeLessThan(1e-6)
    span.free()
  })
})

it('refuses rows without their contexts, and contexts that do not fit', async () => {
  const { golden, model, sequences: { lengths, contexts }, source, trainable } = setUp('130528')
  const span = await TrainableSpan.load(device, model, source, { first: 0, end: 1 }, trainable)
  const hidden = decodeTensor(golden.hidden[0]!)
  await expect(span.forward({ hidden, lengths }, { keepResiduals: false })).rejects.toThrow('contexts')
  await expect(span.forward({ hidden, lengths, contexts: contexts!.slice(1) }, { keepResiduals: false })).rejects.toThrow('contexts')
  await expect(
    span.forward({ hidden, lengths, contexts: contexts!.map(({ maskPosition }) => ({ maskPosition, length: 99 })) }, {
      keepResiduals: false
    })
  ).rejects.toThrow('does not fit')
  span.free()
})
