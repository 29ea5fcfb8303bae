import { expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { LocalTrainer } from '../../../src/model/training/local-trainer.ts'
import { baseWeights, decodeTensor, readModelGolden, readStepsGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'
import type { Subject } from '../suite.ts'

export function steps ({ device, tolerance }: Subject): void {
  it('AdamW ends where PyTorch does', async () => {
    const golden = readStepsGolden('llama')
    const base = readModelGolden(golden.base)
    const { lr, betas: [beta1, beta2], eps, weightDecay } = golden.adamw
    const trainer = await LocalTrainer.load(device(), modelOf(base.config), memorySource(baseWeights(base)), {
      trainable: { ...golden.lora, dropout: 0, rslora: false, seed: golden.seed }, optimizer: { beta1, beta2, epsilon: eps, weightDecay }
    })
    for (let step = 0; step < golden.steps; step++) {
      const sequences = golden.batches[step % golden.batches.length]!
      await trainer.step([{ ids: sequences.map((ids) => ids.slice(0, -1)), targets: sequences.map((ids) => ids.slice(1)) }], {
        learningRate: lr
      })
    }
    for (const [name, { data }] of await trainer.values()) {
      expect(relativeError(data as Float32Array, decodeTensor(golden.final[name]!).data as Float32Array), name).toBeLessThan(
        tolerance.steps
      )
    }
    trainer.free()
  })
}
