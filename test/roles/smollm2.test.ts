import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Tensor } from '../../src/tensor.ts'
import { copyWithExactTokenizer, writeExactData } from './exact-data.ts'
import { adapterTensors, startFederation } from './helpers.ts'

interface Golden {
  readonly seed: string
  readonly lora: { readonly r: number, readonly alpha: number, readonly targets: readonly string[] }
  readonly adamw: { readonly lr: number, readonly betas: readonly [number, number], readonly eps: number, readonly weightDecay: number }
  /** `ids[round][client]` are sequences that begin with BOS. */
  readonly ids: ReadonlyArray<ReadonlyArray<ReadonlyArray<readonly number[]>>>
  readonly losses: readonly number[]
  /** Elements of each tensor, at even distances. */
  readonly samples: number
  readonly names: readonly string[]
  readonly norms: readonly number[]
  readonly values: string
}

const golden = JSON.parse(readFileSync(new URL('../reference/smollm2.json', import.meta.url), 'utf8')) as Golden

/** A real chat model of 30 blocks: MIDSPAN_CHAT_MODEL, or the cache's. */
const model = process.env.MIDSPAN_CHAT_MODEL ??
  join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'midspan-data', 'smollm2-135m-instruct')

function sampled ({ data }: Tensor): number[] {
  const step = Math.floor(data.length / golden.samples)
  return Array.from({ length: golden.samples }, (_, i) => Number(data[i * step]))
}

function normOf ({ data }: Tensor): number {
  let sum = 0
  for (const value of data as Float32Array) sum += value * value
  return Math.sqrt(sum)
}

describe.skipIf(!existsSync(join(model, 'config.json')))('SmolLM2-135M-Instruct', { timeout: 300_000 }, () => {
  it('is trained by a federation as by PyTorch and PEFT, with frozen weights in fp16 and in fp32', async () => {
    const { adamw: { lr, betas: [beta1, beta2], eps, weightDecay }, ids } = golden
    const root = await mkdtemp(join(tmpdir(), 'midspan-smollm2-'))
    try {
      const clients = [{ inputBlocks: 1, outputBlocks: 1, weights: 'fp32' }, { inputBlocks: 2, outputBlocks: 1, weights: 'fp16' }] as const
      const federation = await startFederation({
        model: await copyWithExactTokenizer(model, join(root, 'model')),
        clients,
        charter: {
          seed: golden.seed, loraR: golden.lora.r, loraAlpha: golden.lora.alpha, loraTargets: golden.lora.targets, weights: 'fp16',
          learningRate: lr, beta1, beta2, epsilon: eps, weightDecay, minClients: clients.length
        }
      })
      try {
        const [rounds] = await Promise.all(federation.clients.map(async (client, i) => {
          const data = await writeExactData(join(root, `${i}.jsonl`), ids.map((shares) => shares[i]!))
          return await client.train({ data, rounds: ids.length, sequences: ids[0]![i]!.length, maxTokens: 64, packing: 'padded' })
        }))
        expect(rounds!.map(({ members, leftOut }) => [members, leftOut])).toEqual(ids.map(() => [clients.length, false]))
        const adapter = adapterTensors(await federation.clients[1]!.export(join(root, 'adapter')))
        expect([...adapter.keys()].sort()).toEqual([...golden.names].sort())
        const bytes = Buffer.from(golden.values, 'base64')
        let farthest = 0
        for (const [at, name] of golden.names.entries()) {
          const tensor = adapter.get(name)!
          expect(Math.abs(normOf(tensor) - golden.norms[at]!) / golden.norms[at]!, name).toBeLessThan(1e-4)
          for (const [i, value] of sampled(tensor).entries())
            farthest = Math.max(farthest, Math.abs(value - bytes.readFloatLE(4 * (at * golden.samples + i))))
        }
        expect(farthest).toBeLessThan(1e-4)
      } finally {
        await federation.stop()
      }
    } finally {
      await rm(root, { recursive: true, force: true })
    }
  })
})
