import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeSafetensors } from '../../src/model/checkpoint/safetensors.ts'
import { modelOf, type Config } from '../../src/model/families/index.ts'
import { permutation } from '../../src/model/random.ts'
import { baseWeights, type ModelGolden } from '../helpers/golden.ts'

/** Where the characters that stand for token ids begin: a block of CJK characters, none of which combines with others. */
const FIRST_CHARACTER = 0x4e00
const BOS = 1

/** Copies a model, with an exact tokenizer. */
export async function copyWithExactTokenizer (model: string, directory: string): Promise<string> {
  await mkdir(directory, { recursive: true })
  await copyFile(join(model, 'model.safetensors'), join(directory, 'model.safetensors'))
  await writeExactTokenizer(directory, JSON.parse(await readFile(join(model, 'config.json'), 'utf8')) as Config)
  return directory
}

/** Writes the model of a golden file, with an exact tokenizer. */
export async function writeExactModel (golden: ModelGolden, directory: string): Promise<string> {
  await mkdir(directory, { recursive: true })
  await writeSafetensors(join(directory, 'model.safetensors'), baseWeights(golden))
  await writeExactTokenizer(directory, golden.config)
  return directory
}

/**
 * Writes a configuration that begins sequences with token 1, and a tokenizer in which every character is one token and nothing ends a
 * record: texts for it say exactly which ids a client trains on.
 */
async function writeExactTokenizer (directory: string, config: Config): Promise<void> {
  const special = { '<unk>': 0, '<s>': BOS }
  const vocab: Record<string, number> = { ...special }
  for (let id = 2; id < modelOf(config).vocabularySize; id++) vocab[characterOf(id)] = id
  const write = async (name: string, value: object): Promise<void> => { await writeFile(join(directory, name), JSON.stringify(value)) }
  await write('config.json', { ...config, eos_token_id: null })
  await write('tokenizer_config.json', { tokenizer_class: 'PreTrainedTokenizerFast', bos_token: '<s>', unk_token: '<unk>' })
  await write('tokenizer.json', {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: Object.entries(special).map(([content, id]) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true
    })),
    normalizer: null,
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [BOS], tokens: ['<s>'] } }
    },
    decoder: { type: 'Fuse' },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: '<unk>',
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges: []
    }
  })
}

/**
 * Writes JSONL from which a client with padded packing, seed 0 and as many sequences a batch as each round has takes exactly these
 * sequences of ids, which begin with BOS: `rounds[round]` are one batch.
 */
export async function writeExactData (path: string, rounds: ReadonlyArray<ReadonlyArray<readonly number[]>>): Promise<string> {
  const sequences = rounds.flat()
  const lines: string[] = []
  for (const [place, line] of permutation(sequences.length, '0/epoch/0').entries()) {
    const [first, ...ids] = sequences[place] as readonly number[]
    if (first !== BOS) throw new RangeError('a sequence does not begin with BOS')
    lines[line] = JSON.stringify({ text: ids.map(characterOf).join('') })
  }
  await writeFile(path, lines.join('\n') + '\n')
  return path
}

function characterOf (id: number): string {
  return String.fromCodePoint(FIRST_CHARACTER + id)
}
