/**
 * What can be guessed of withheld words: stories260K guesses them in text that it wrote itself, from the words that are sent, beside what
 * it foretells with all words before each known. The attack knows where words are missing, and how many tokens.
 * Run: node bench/infill.ts [texts, 24] [rules, several separated by spaces]
 */
import { openModelDirectory } from '../src/model/checkpoint/directory.ts'
import { modelOf } from '../src/model/families/index.ts'
import { attackFigures, priorFigures, type Figure } from '../src/model/privacy/audit/figures.ts'
import { attackGaps, type GappedSequence } from '../src/model/privacy/audit/infill.ts'
import { ModelPrior } from '../src/model/privacy/audit/model-prior.ts'
import { parseWithholding } from '../src/model/privacy/withholding.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import type { Example } from '../src/model/text/dataset.ts'
import { loadTokenizer } from '../src/model/text/load.ts'
import { WordMarker } from '../src/model/text/word-marker.ts'
import { dataPath } from '../test/helpers/data.ts'
import { printTable } from './support/print.ts'
import { sampledTexts } from './support/sampled-texts.ts'

const RULES = ['capitals', 'names', 'rare:0.5%'] as const
const TEXT_TOKENS = 256

async function main (count: number, rules: readonly string[]): Promise<void> {
  const path = dataPath('stories260K-hf')
  const [directory, tokenizer] = [await openModelDirectory(path), await loadTokenizer(path)]
  const model = modelOf(directory.config)
  const device = await openDevice('cpu', { threads: 1 })
  try {
    const texts = await sampledTexts(device, model, directory, { bosId: tokenizer.bosId!, count, tokens: TEXT_TOKENS })
    const prior = await ModelPrior.load(device, path, model.vocabularySize)
    const rows: string[][] = []
    for (const rule of rules) {
      const marker = new WordMarker(tokenizer, await parseWithholding(rule, async () => await Promise.resolve('')))
      for (const { ids } of texts) marker.learn(ids)
      const sequences = texts.map((text) => gapped(text, marker.mark(text.ids)))
      const attack = attackGaps(prior, sequences, new AbortController().signal)
      let next = await attack.next()
      while (next.done !== true) next = await attack.next()
      const { priors, sentPriors, outcomes } = next.value
      const [{ recovered: guessed }, { alone, withPrior, hard, leak }] = [priorFigures(priors), attackFigures(priors, outcomes)]
      const share = `${(100 * priors.length / (priors.length + sentPriors.length)).toFixed(1)} %`
      rows.push([rule, String(priors.length), share, ...[guessed, alone, withPrior, hard, leak].map(percent)])
    }
    prior.free()
    printTable(['withheld', 'tokens', 'of all', 'prior, all before', 'sent before', 'both sides', 'of hard tokens', 'leak'], rows)
  } finally {
    await device.close()
  }
}

/** Takes a text as one of which some tokens are withheld, from the first one on that is sent. */
function gapped ({ ids }: Example, withheld: Uint8Array): GappedSequence {
  const start = withheld.indexOf(0)
  const whole = [...ids.subarray(start)]
  return { ids: whole, isSent: withheld.subarray(start).map((mark) => 1 - mark), positions: whole.map((_, i) => i).slice(1) }
}

function percent (figure: Figure | null): string {
  return figure === null ? '-' : `${(100 * figure.value).toFixed(1)} % ± ${(100 * figure.error).toFixed(1)}`
}

await main(Number(process.argv[2] ?? 24), process.argv.length > 3 ? process.argv.slice(3) : RULES)
