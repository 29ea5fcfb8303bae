import { createDefaults } from '../../src/node/federation/create-defaults.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'

/** An exact federation that anybody on loopback may join: no noise, no clip, float32 on the wire. */
export const foundDefaults: Omit<CreateOptions, 'model'> = {
  ...createDefaults,
  name: 'test',
  admission: 'open',
  inputBlocks: { min: 1, max: 2 },
  outputBlocks: { min: 1, max: 2 },
  clip: 'none',
  wire: 'fp32',
  loraTargets: ['q', 'k', 'v', 'o'],
  seed: '00',
  totalRounds: 100,
  maxGradientNorm: null,
  maxTokensPerClient: 1024,
  maxClients: 8,
  cacheBytes: 64 * 2 ** 20
}
