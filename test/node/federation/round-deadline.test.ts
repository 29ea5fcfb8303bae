import { expect, it } from 'vitest'
import { MAX_TIMER_MS } from '../../../src/api/fields.ts'
import { modelOf } from '../../../src/model/families/index.ts'
import { createDefaults } from '../../../src/node/federation/create-defaults.ts'
import { roundDeadlineFor } from '../../../src/node/federation/round-deadline.ts'
import { TINY_CONFIG } from '../../helpers/tiny-model.ts'

const options = { ...createDefaults, model: '', name: '' }
const smol = {
  ...TINY_CONFIG, hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30, num_attention_heads: 9, num_key_value_heads: 3,
  head_dim: 64, vocab_size: 49_152, tie_word_embeddings: true
}

it('a round waits as long as a slow machine takes for the largest batch, and a minute at least', () => {
  expect(roundDeadlineFor(modelOf(TINY_CONFIG), options)).toBe(60_000)
  // A round of SmolLM2-135M with these batches was measured at 67 s on two cores.
  expect(roundDeadlineFor(modelOf(smol), options)).toBe(110_000)
  expect(roundDeadlineFor(modelOf(smol), { ...options, accumulate: 2 })).toBe(220_000)
  expect(roundDeadlineFor(modelOf(smol), { ...options, inputBlocks: { max: 4 } })).toBe(140_000)
})

it('a round waits no longer than a timer can measure', () => {
  expect(roundDeadlineFor(modelOf(smol), { ...options, maxTokensPerClient: 2 ** 31 })).toBe(MAX_TIMER_MS)
})
