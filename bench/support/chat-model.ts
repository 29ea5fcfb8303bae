import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { dataPath } from '../../test/helpers/data.ts'

/** Returns the directory of a real chat model. Where there is none, says so and ends the process. */
export function chatModel (): string {
  const model = process.env.MIDSPAN_CHAT_MODEL ??
    join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'midspan-data', 'smollm2-135m-instruct')
  if (existsSync(join(model, 'config.json'))) return model
  console.log(`skipped: there is no chat model in ${model}; name one with MIDSPAN_CHAT_MODEL`)
  process.exit(0)
}

/** Two dialogues with their summaries in each text. */
const DIALOGUES = 2
/** About 450 tokens. */
const CHARACTERS = 1_800

/** Returns texts like those that a client has in its ordinary traffic, from the tests' data. */
export async function lessonTexts (count: number): Promise<string[]> {
  const lines = (await readFile(dataPath('dialogsum', 'dev.jsonl'), 'utf8')).trim().split('\n')
    .map((line) => JSON.parse(line) as { readonly dialogue: string, readonly summary: string })
  const texts = lines.map(({ dialogue, summary }) => `${dialogue}\n\n${summary}`)
  return Array.from({ length: count }, (_, i) => texts.slice(i * DIALOGUES, (i + 1) * DIALOGUES).join('\n\n').slice(0, CHARACTERS))
}
