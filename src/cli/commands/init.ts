import { describeNoiseCost } from '../../model/privacy/noise-cost.ts'
import { command } from '../command.ts'
import { bytes, plural, seconds } from '../format.ts'
import { grouped } from '../option.ts'
import { json } from '../shared-options.ts'
import { ProgressLine } from '../views/progress-line.ts'
import { initOptions } from './init-options.ts'

/** A block of a large model is measured for longer than this: time goes on being shown. */
const BEAT_MS = 1_000

export const init = command({
  name: 'init',
  group: 'Found and join',
  summary: 'Found a federation around a model directory',
  details: `Writes the charter, which fixes all of this for everybody who joins: change your mind before you hand out invites.
Reads the whole model once to fingerprint it, and runs it on a sample of text to measure the clip norms and what noise costs, unless --clip is none.`,
  options: { ...initOptions, ...grouped('Output', { json }) },
  examples: [
    { command: 'midspan init --home s --role server --model llama/ --name stories', about: 'with the defaults' },
    {
      command: 'midspan init --home s --model llama/ --name clinic --noise 0.1 --input-blocks 1..4 --output-blocks 1..2',
      about: 'a privacy floor, and clients that may keep more'
    },
    { command: 'midspan init --home s --config config/server.yaml', about: 'from a file' }
  ],
  async run ({ home, json, ...options }, { terminal, signal }) {
    const { createFederation } = await import('../../node/federation/create.ts')
    const progress = new ProgressLine(terminal)
    const startedAt = performance.now()
    let hashedBytes = 0
    let measured = ''
    const show = (): void => {
      progress.draw(
        `Founding: ${bytes(hashedBytes)} of the model fingerprinted${measured}, ${seconds((performance.now() - startedAt) / 1000)} so far`
      )
    }
    const beat = setInterval(show, BEAT_MS)
    const founded = await createFederation(home, options, signal, {
      onProgress: (more) => {
        hashedBytes += more
        show()
      },
      onCalibrate: (block, blocks) => {
        measured = `, block ${block} of ${blocks} measured`
        show()
      }
    }).finally(() => {
      clearInterval(beat)
      progress.clear()
    })
    if (json) return terminal.json(founded)
    const { federation, model, peerId } = founded
    terminal.line(`Founded ${federation.name} (${federation.id})`)
    terminal.line(
      `Model ${model.path}: ${plural(model.blocks, 'block')} of hidden size ${model.hidden}, ${plural(model.tensors, 'tensor')}, ${
        bytes(model.bytes)
      }`
    )
    if (founded.noiseCost !== null) terminal.line(describeNoiseCost(founded.noiseCost))
    terminal.line(`This peer is ${peerId}, a server. Start it with: midspan daemon --home ${home}`)
  }
})
