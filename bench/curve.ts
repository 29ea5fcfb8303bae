/**
 * The loss over the rounds of a training on tiny Shakespeare, split by speaker over three clients: federated, against centralised
 * training with the same budget, and with noise. Writes docs/curve.json and docs/curve.md. Run: node bench/curve.ts [rounds, 300]
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { dataPath } from '../test/helpers/data.ts'
import { type Curves, measureCurves } from './support/curve.ts'

const ROUNDS = 300
const POINTS = 12
const NOISES = [0, 0.1, 0.5]
const SEQUENCES = 8
const HELD_OUT_SEQUENCES = 128
/** How far the federation without noise may end from centralised training. */
const BAR = 0.02

const DOCS = join(import.meta.dirname, '../docs')

const fixed = (loss: number): string => loss.toFixed(4)

function tableOf ({ centralised, federated }: Curves): string {
  const rows = [
    [
      'round',
      'centralised',
      ...federated.flatMap(({ noise }) =>
        noise === 0 ? ['federated'] : [`noise ${noise}, as clients see it`, `noise ${noise}, the adapter`]
      )
    ],
    centralised.map(() => '')
  ]
  rows[1] = (rows[0] as string[]).map(() => '---:')
  for (const [index, { round, evaluated }] of centralised.entries()) {
    const points = federated.flatMap(({ noise, points }) => {
      const point = points[index] as typeof points[number]
      return noise === 0 ? [fixed(point.evaluated)] : [fixed(point.evaluated), fixed(point.adapter)]
    })
    rows.push([String(round), fixed(evaluated), ...points])
  }
  return rows.map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function pageOf (curves: Curves, rounds: number): string {
  const { clients, centralised, federated } = curves
  const exact = federated.find(({ noise }) => noise === 0)
  const difference = (exact?.points.at(-1)?.evaluated ?? NaN) - (centralised.at(-1)?.evaluated ?? NaN)
  return `# The loss over ${rounds} rounds, federated and centralised

Measured by \`node bench/curve.ts\`, which writes this page and \`curve.json\`.

The stories260K model, which has read nothing but simple stories, learns tiny Shakespeare by LoRA (r 16 on all seven modules, AdamW, learning rate 0.005 with
warm-up and cosine). The plays are split by speaker over three clients (${
  clients.map(({ speakers, tokens }) => `${speakers} speakers with ${tokens} tokens`).join(', ')
}) with the partitions
1|3|1, 2|2|1 and 1|2|2. Each brings ${SEQUENCES} sequences of 64 tokens to a round. Centralised training takes the same sequences in the same rounds on one machine. The loss is the
mean cross-entropy of a token in ${HELD_OUT_SEQUENCES} sequences of speeches that nobody trains on; every sequence begins with BOS.

${tableOf(curves)}

Without noise the federation ends ${
  difference.toExponential(1)
} from centralised training. Bytes between one client and the server in a round: ${exact?.wireBytes ?? 0} (fp32).

\`noise\` is the expected norm of a row's noise over the clip norm, here on hidden states and on gradients alike. Clients' own evaluations and generations pass the same boundary,
so they see the first of the two columns; the second is the trained adapter without noise.
`
}

async function main (rounds: number): Promise<void> {
  const startedAtMs = Date.now()
  const curves = await measureCurves(
    {
      model: dataPath('stories260K-hf'),
      text: dataPath('tinyshakespeare', 'input.txt'),
      rounds,
      every: Math.ceil(rounds / POINTS),
      sequences: SEQUENCES,
      heldOutSequences: HELD_OUT_SEQUENCES
    },
    NOISES,
    (name, { round, evaluated, adapter }) => {
      console.log(`${name}, round ${round}: ${fixed(evaluated)}${evaluated === adapter ? '' : ` (the adapter: ${fixed(adapter)})`}`)
    }
  )
  await writeFile(join(DOCS, 'curve.json'), `${JSON.stringify(curves, undefined, 2)}\n`)
  await writeFile(join(DOCS, 'curve.md'), pageOf(curves, rounds))
  const [federated] = curves.federated
  const difference = Math.abs((federated?.points.at(-1)?.evaluated ?? NaN) - (curves.centralised.at(-1)?.evaluated ?? NaN))
  console.log(
    `\n${tableOf(curves)}\n\ndifference at the end: ${difference.toExponential(2)}, bar: at most ${BAR}; ${
      Math.round((Date.now() - startedAtMs) / 1000)
    } s`
  )
  if (!(difference <= BAR)) process.exitCode = 1
}

await main(Number(process.argv[2] ?? ROUNDS))
