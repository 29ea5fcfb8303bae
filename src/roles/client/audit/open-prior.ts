import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { UsageError } from '../../../errors.ts'
import { ModelPrior } from '../../../model/privacy/audit/model-prior.ts'
import { NgramPrior } from '../../../model/privacy/audit/ngram-prior.ts'
import type { Prior } from '../../../model/privacy/audit/prior.ts'
import { SAMPLE_TEXTS } from '../../../model/privacy/sample-text.ts'
import { loadDatasetInThread } from '../../../model/text/threads/dataset-thread.ts'
import { TokenizerThread } from '../../../model/text/threads/tokenizer-thread.ts'
import type { ClientRuntime } from '../runtime.ts'

export interface OpenedPrior {
  readonly prior: Prior
  readonly free: () => void
}

/**
 * Opens what an attacker knows of text before: the model in a directory, n-grams of a file of public text, or of the sample texts that come
 * with Midspan. The caller frees it. Throws UsageError for a model with another tokenizer, and what reading a file throws.
 */
export async function openPrior (
  { device, model: { vocabularySize }, tokenizer, directory }: Pick<ClientRuntime, 'device' | 'model' | 'tokenizer' | 'directory'>,
  path: string | undefined,
  signal: AbortSignal
): Promise<OpenedPrior> {
  if (path === undefined) {
    const texts = await Promise.all(SAMPLE_TEXTS.map(async (text) => await tokenizer.encode(text)))
    return { prior: new NgramPrior(texts, vocabularySize, 'n-grams of the sample texts that come with Midspan'), free: () => {} }
  }
  if (await isModel(path)) {
    await checkTokenizer(tokenizer, path)
    const prior = await ModelPrior.load(device, path, vocabularySize)
    return { prior, free: () => { prior.free() } }
  }
  const options = { lossOn: 'all', vocabularySize, skipBadLines: true } as const
  const { examples } = await loadDatasetInThread({ dir: directory.path, paths: [path], options }, signal)
  return { prior: new NgramPrior(examples.map(({ ids }) => ids), vocabularySize, `n-grams of the text in ${path}`), free: () => {} }
}

async function isModel (path: string): Promise<boolean> {
  return await stat(join(path, 'config.json')).then((found) => found.isFile(), () => false)
}

/** Throws UsageError for a tokenizer that makes other tokens: probabilities of one mean nothing for those of the other. */
async function checkTokenizer (tokenizer: TokenizerThread, path: string): Promise<void> {
  const other = new TokenizerThread(path)
  try {
    for (const text of SAMPLE_TEXTS) {
      const [ours, theirs] = [await tokenizer.encode(text), await other.encode(text)]
      if (String(ours) !== String(theirs))
        throw new UsageError(
          `the prior ${path} has another tokenizer than the model that is audited`,
          'give --prior a model with the same tokenizer, or public text'
        )
    }
  } finally {
    await other.close()
  }
}
