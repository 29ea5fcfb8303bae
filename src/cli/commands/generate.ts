import { readFile } from 'node:fs/promises'
import { UsageError } from '../../errors.ts'
import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import type { GenerateDone, GenerateEvent } from '../events.ts'
import { bytes, digits, plural, seconds } from '../format.ts'
import { defaulted, grouped, optional, toggle } from '../option.ts'
import { json } from '../shared-options.ts'
import { integer, list, number, path, text } from '../values.ts'

export const generate = command({
  name: 'generate',
  group: 'Work',
  summary: 'Generate text across the network',
  details: 'Text is printed as it comes. Give one of --prompt, --messages and --ids.',
  options: {
    ...grouped('Input', {
      prompt: optional('TEXT', text, 'Text to continue'),
      messages: optional('FILE', path, "A JSON array of { role, content }, put through the model's chat template"),
      ids: optional('ID,…', list(integer({ min: 0 }), { repeats: true }), 'Token ids to continue, exactly as given')
    }),
    ...grouped('Sampling', {
      maxTokens: defaulted('COUNT', integer({ min: 1 }), '128', 'Tokens to generate at most'),
      temperature: defaulted('NUMBER', number({ min: 0, max: 100 }), '0', '0 always takes the likeliest token; higher is more varied'),
      topK: optional('COUNT', integer({ min: 1 }), 'Choose among the K likeliest tokens', 'all'),
      topP: optional(
        'SHARE',
        number({ min: 0, max: 1, above: true }),
        'Choose among the likeliest tokens that have this probability together',
        '1'
      ),
      seed: optional('NUMBER', integer({ min: 0, max: 2 ** 32 - 1 }), 'The same seed gives the same text', 'a new one each time')
    }),
    ...grouped('Output', {
      stats: toggle('Print speed and bytes to standard error at the end'),
      json
    })
  },
  examples: [
    { command: 'midspan generate --prompt "Once upon a time" --max-tokens 100', about: 'continue a text' },
    {
      command: 'midspan generate --prompt "Once" --temperature 0.8 --top-p 0.9 --seed 7 --stats',
      about: 'sample, and say how fast it went'
    }
  ],
  async run ({ home, prompt, messages, ids, stats, json, maxTokens, temperature, topK, topP, seed }, { terminal, signal }) {
    const inputs = [prompt, messages, ids].filter((input) => input !== undefined)
    if (inputs.length !== 1)
      throw new UsageError(
        inputs.length === 0 ? 'there is nothing to continue' : 'there are several inputs',
        'give one of --prompt, --messages and --ids'
      )
    const request = {
      prompt,
      ids,
      messages: messages === undefined ? undefined : await readMessages(messages),
      maxTokens,
      temperature,
      topK,
      topP,
      seed
    }
    for await (const event of callDaemon<GenerateEvent>(home, 'generate', request, signal)) {
      if (event.type === 'text') {
        if (!json) terminal.writeForeign(event.text)
        continue
      }
      if (event.type === 'waiting') {
        terminal.note(event.reason)
        continue
      }
      const { type: _type, ...result } = event
      if (json) terminal.json(result)
      else terminal.write('\n')
      if (stats) terminal.note(statsLine(event))
    }
  }
})

function statsLine (done: GenerateDone): string {
  return `${plural(done.tokens, 'token')} at ${digits(done.tokensPerSecond)} tokens/s (${
    done.reason === 'stop' ? 'the model ended it' : 'the limit ended it'
  }), ` +
    `${plural(done.promptTokens, 'prompt token')} in ${seconds(done.prefillSeconds)}, sent ${bytes(done.sentBytes)}, received ${
      bytes(done.receivedBytes)
    }`
}

async function readMessages (file: string): Promise<unknown> {
  let value: unknown
  try {
    value = JSON.parse(await readFile(file, 'utf8'))
  } catch (error) {
    throw new UsageError(`${file} cannot be read as JSON: ${(error as Error).message}`, 'check the path and the file', error)
  }
  if (!Array.isArray(value) || value.length === 0 || !value.every(isMessage)) {
    throw new UsageError(`${file} is not an array of messages`, 'write [{"role": "user", "content": "…"}]')
  }
  return value
}

function isMessage (value: unknown): boolean {
  const { role, content } = (value ?? {}) as { role?: unknown, content?: unknown }
  return typeof role === 'string' && typeof content === 'string'
}
