import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import type { Charter } from '../../../src/protocols/charter/index.ts'

/** A key that is the same in every run. */
export async function keyOf (seed: number): Promise<Ed25519PrivateKey> {
  return await generateKeyPairFromSeed('Ed25519', new Uint8Array(32).fill(seed))
}

/** A peer id that is the same in every run. */
export async function peerOf (seed: number): Promise<string> {
  return peerIdFromPrivateKey(await keyOf(seed)).toString()
}

/** A charter that keeps every rule. */
export async function charterOf (seed: number, changes: Partial<Charter> = {}): Promise<Charter> {
  return {
    version: 1,
    name: 'stories',
    founder: await peerOf(seed),
    createdAt: '2026-01-02T03:04:05Z',
    protocols: { hello: '1.0.0', train: '1.0.0' },
    model: {
      family: 'llama',
      config: { hidden_size: 4, rope_theta: 10000 },
      blocks: 5,
      hidden: 4,
      tensors: { 'model.norm.weight': { dtype: 'F32', shape: [4], bytes: 16, sha256: 'ab'.repeat(32) } },
      files: { 'config.json': { bytes: 2, sha256: 'cd'.repeat(32) } }
    },
    adapters: { r: 8, alpha: 16, dropout: 0, targets: ['q_proj', 'v_proj'], rslora: false, seed: '00ff' },
    weights: { blocks: [], bias: 'none' },
    training: {
      optimizer: { name: 'adamw', learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 },
      schedule: { name: 'constant', warmupRounds: 0, totalRounds: 100 },
      maxGradientNorm: null,
      gradientNormScope: 'party',
      gradientAccumulationSteps: 1,
      maxTokensPerClient: 4096,
      roundDeadlineMs: 60_000,
      minClients: 1
    },
    strategy: 'client-batch',
    ends: { mode: 'shared' },
    aggregation: { mode: 'plain' },
    partitions: { inputBlocks: { min: 1, max: 2 }, outputBlocks: { min: 1, max: 2 } },
    wire: 'fp16',
    privacy: { noise: 0.5, gradientNoise: 0.25, clipAlways: false, clip: { hidden: { 1: 2, 2: 3 }, gradient: { 3: 0.5, 4: 0.25 } } },
    admission: 'invite',
    limits: { maxSequenceTokens: 512, maxClients: 3, maxSessionsPerClient: 4, cacheBytes: 2 ** 20 },
    ...changes
  }
}
