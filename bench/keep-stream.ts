/**
 * What a residual stream that stays with the client saves under noise: one client with the first and the last block of stories260K trains
 * on tiny Shakespeare under isotropic noise on hidden states and on gradients, with the stream through the server and with the stream kept.
 * Prints held-out losses in nats a token, beside those without noise and of the client alone, for which the middle is skipped.
 * Run: node bench/keep-stream.ts [rounds, 100]
 */
import { openModelDirectory } from '../src/model/checkpoint/directory.ts'
import { modelOf } from '../src/model/families/index.ts'
import { sequencesOf } from '../src/model/layers/hidden-states.ts'
import type { Device, DeviceTensor } from '../src/model/runtime/device.ts'
import { Scope } from '../src/model/runtime/scope.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { Batches } from '../src/model/text/batches.ts'
import type { Example } from '../src/model/text/dataset.ts'
import { loadTokenizer } from '../src/model/text/load.ts'
import type { ClientProtection } from '../src/roles/charter-settings.ts'
import { dataPath } from '../test/helpers/data.ts'
import { SplitTrainer, type SplitTrainerOptions } from '../test/roles/client/training/split-trainer.ts'
import { printTable } from './support/print.ts'
import { splitShakespeare, type Sequences } from './support/shakespeare.ts'

const NOISES = [0.2, 0.4, 0.8]
const TOKENS = 64
const SEQUENCES = 8
const HELD_OUT_SEQUENCES = 128
const LEARNING_RATE = 5e-3
const MAX_GRADIENT_NORM = 1
const MODULES = ['q', 'k', 'v', 'o', 'gate', 'up', 'down']
const ADAPTERS = { r: 8, alpha: 16, dropout: 0, rslora: false, seed: '07', targets: MODULES.map((name) => `${name}_proj`) }
/** As `--clip auto` does. */
const QUANTILE = 0.95

const UNPROTECTED: ClientProtection = { hidden: { clip: null, noise: 0 }, gradient: { clip: null, noise: 0 }, keepsStream: false }

const examples = (sequences: Sequences): Example[] =>
  sequences.map((ids) => ({ ids: Int32Array.from(ids), lossMask: Uint8Array.from(ids, (_, i) => i > 0 ? 1 : 0) }))

async function main (rounds: number): Promise<void> {
  const path = dataPath('stories260K-hf')
  const directory = await openModelDirectory(path)
  const { clients: [client], heldOut } = await splitShakespeare(dataPath('tinyshakespeare', 'input.txt'), await loadTokenizer(path), {
    clients: 1, rounds, sequences: SEQUENCES, tokens: TOKENS, heldOutSequences: HELD_OUT_SEQUENCES
  })
  const device = await openDevice('cpu', { threads: 1 })
  const options: Omit<SplitTrainerOptions, 'protection'> = {
    model: modelOf(directory.config),
    source: directory,
    adapters: ADAPTERS,
    tokens: TOKENS + 1,
    sequences: SEQUENCES,
    data: examples(client!.rounds.flat())
  }
  const measured = new Batches(examples(heldOut), { seed: '0', sequences: 16, mode: 'padded' })
  const train = async (protection: ClientProtection, isAlone = false): Promise<number> => {
    const trainer = await SplitTrainer.load(device, { ...options, protection, isAlone })
    for (let round = 0; round < rounds; round++) await trainer.step(LEARNING_RATE, MAX_GRADIENT_NORM)
    return await trainer.evaluate(measured)
  }
  try {
    const clips = await clipsOf(device, await SplitTrainer.load(device, { ...options, protection: UNPROTECTED }))
    console.log(`${rounds} rounds of ${SEQUENCES} x ${TOKENS} tokens; clips ${clips.hidden.toPrecision(3)} and ${clips.gradient.toPrecision(3)}`)
    console.log(`without noise ${(await train(UNPROTECTED)).toFixed(3)}, client alone ${(await train(UNPROTECTED, true)).toFixed(3)}`)
    const rows: string[][] = []
    for (const noise of NOISES) {
      const losses: string[] = []
      for (const [gradientNoise, keepsStream] of [[0, false], [0, true], [noise, false], [noise, true]] as const) {
        losses.push((await train({
          hidden: { clip: clips.hidden, noise },
          gradient: gradientNoise === 0 ? { clip: null, noise: 0 } : { clip: clips.gradient, noise: gradientNoise },
          keepsStream
        })).toFixed(3))
      }
      rows.push([String(noise), ...losses])
      console.log(rows.at(-1)!.join(' '))
    }
    printTable(['noise', 'hidden states', 'kept', 'gradients too', 'kept'], rows)
  } finally {
    await device.close()
  }
}

/** The norms that most rows stay below: hidden states after the bottom, and gradients before the top. */
async function clipsOf (device: Device, { client: { bottom, top }, batches }: SplitTrainer): Promise<{ hidden: number, gradient: number }> {
  const { batch } = batches.at({ epoch: 0, index: 0 })
  using scope = new Scope(device)
  const { hidden } = await bottom.forward(batch.ids, { keepResiduals: false })
  scope.own(hidden)
  const { gradient, gradients } = await top.train({ hidden, ...sequencesOf(bottom.span.model, batch.ids) }, batch.targets)
  device.free(...gradients.values())
  return { hidden: await typicalNorm(device, hidden), gradient: await typicalNorm(device, scope.own(gradient)) }
}

async function typicalNorm (device: Device, rows: DeviceTensor): Promise<number> {
  const [count = 0, width = 0] = rows.shape
  const values = (await device.download(rows)).data as Float32Array
  const norms = Array.from({ length: count }, (_, row) => Math.hypot(...values.subarray(row * width, (row + 1) * width)))
  norms.sort((a, b) => a - b)
  return norms[Math.floor(QUANTILE * (count - 1))]!
}

await main(Number(process.argv[2] ?? 100))
