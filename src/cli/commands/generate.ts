import type { ResultOf } from '../../api/operations.ts'
import type { StageCheck } from '../../api/stage-checks.ts'
import { UsageError } from '../../errors.ts'
import { spanText } from '../../span.ts'
import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import { bytes, digits, plural, seconds } from '../format.ts'
import { readJsonObjectFile } from '../json-file.ts'
import { readMessages } from '../messages-file.ts'
import { defaulted, grouped, optional, toggle } from '../option.ts'
import { AnswersFile } from '../prompts/answers-file.ts'
import { runPrompts, type PromptProgress, type PromptRun } from '../prompts/run-prompts.ts'
import { json, sampling, timeout, withheldWords } from '../shared-options.ts'
import type { Terminal } from '../terminal.ts'
import { choice, integer, list, path, share } from '../values.ts'
import { ProgressLine } from '../views/progress-line.ts'

export const generate = command({
  name: 'generate',
  operation: 'generate',
  group: 'Work',
  summary: 'Generate text across the network',
  details:
    `Text is printed as it comes. Give one of --prompt, --messages, --ids and --prompts. With --prompts, each line of a file is answered, several at
once, and --answers names the file that gets a line of JSON for each: the prompt's "line", and "text", "ids", "reason", "promptTokens" and "tokens", or
"error" for a prompt that cannot be answered. The same command goes on where it was cut off.`,
  options: {
    ...grouped('Input', {
      prompt: optional('TEXT', String, "Text to continue; an empty one continues the model's begin token"),
      messages: optional('FILE', path, "A JSON array of { role, content }, put through the model's chat template; docs/data.md says what a message may hold"),
      ids: optional('ID,…', list(integer({ min: 0 }), { repeats: true }), 'Token ids to continue, exactly as given'),
      prompts: optional('FILE', path, 'JSONL of prompts to answer: {"prompt": "…"}, {"messages": […]} or {"ids": […]} a line'),
      answers: optional('FILE', path, 'Where the answers to --prompts go, and which of them there are already')
    }),
    ...grouped('Sampling', {
      maxTokens: defaulted('COUNT', integer({ min: 1 }), '128', 'Tokens to generate at most'),
      jsonSchema: optional('FILE', path, 'Keep the text to JSON that the JSON Schema in this file describes; docs/serving.md says what a schema may hold'),
      ...sampling
    }),
    ...grouped('Privacy', { withhold: withheldWords }),
    ...grouped('Network', {
      timeout,
      carry: toggle(
        'Carry hidden states from server to server, also where these could hand over to one another; a client that checks servers always does'
      ),
      verify: optional(
        'SHARE',
        share,
        'Check the servers of this text with this probability, by having others compute the same, and wait for it; 0% never does. Above 0% the client carries hidden states from server to server. See docs/verification.md',
        "the daemon's setting, in the background"
      ),
      speculate: optional(
        'SOURCE',
        choice('off', 'lookup', 'history', 'map'),
        "Send tokens before they are known to be next, so that one round trip gives several: off sends none, lookup those that followed the same tokens in this text, history also those in this client's texts since the daemon started, map also those that a map of the middle predicts, which the client learns. See docs/serving.md",
        'history; off with noise'
      )
    }),
    ...grouped('Output', {
      stats: toggle('Print speed, bytes and the servers of the route to standard error at the end'),
      json
    })
  },
  examples: [
    { command: 'midspan generate --prompt "Once upon a time" --max-tokens 100', about: 'continue a text' },
    {
      command: 'midspan generate --prompt "Once" --temperature 0.8 --top-p 0.9 --seed 7 --stats',
      about: 'sample, and say how fast it went'
    },
    { command: 'midspan generate --prompts questions.jsonl --answers answers.jsonl', about: 'answer a file of prompts' }
  ],
  async run (
    {
      home, prompt, messages, ids, prompts, answers, stats, json, timeout, carry, verify, speculate, withhold,
      maxTokens, jsonSchema, temperature, topK, topP, seed
    },
    { terminal, signal }
  ) {
    const inputs = [prompt, messages, ids, prompts].filter((input) => input !== undefined)
    if (inputs.length !== 1)
      throw new UsageError(
        inputs.length === 0 ? 'there is nothing to continue' : 'there are several inputs',
        'give one of --prompt, --messages, --ids and --prompts'
      )
    const settings = {
      maxTokens,
      jsonSchema: jsonSchema === undefined ? undefined : await readJsonObjectFile(jsonSchema),
      temperature,
      topK,
      topP,
      seed,
      handOver: carry ? false : undefined,
      timeoutMs: timeout,
      verify,
      speculate,
      withhold
    }
    if (prompts !== undefined) return await answerPrompts({ home, prompts, answers, settings }, terminal, signal)
    if (answers !== undefined) throw new UsageError('--answers is for --prompts', 'leave it out, or give --prompts FILE')
    const request = { prompt, ids, messages: messages === undefined ? undefined : await readMessages(messages), ...settings }
    const progress = new ProgressLine(terminal)
    try {
      for await (const event of callDaemon(home, 'generate', request, signal)) {
        if (event.type === 'waiting') {
          progress.wait(event.reason)
          continue
        }
        progress.clear()
        if (event.type === 'token') continue
        if (event.type === 'text') {
          if (!json) terminal.writeForeign(event.text)
          continue
        }
        const { type: _type, ...result } = event
        if (json) terminal.json(result)
        else terminal.write('\n')
        if (event.reason === 'context') terminal.note(contextLine(event, maxTokens))
        if (!json) for (const line of (event.checks ?? []).map(checkLine)) terminal.note(line)
        const statistics = [statsLine(event), roundTripsLine(event), ...event.route.map(legLine), networkLine(event)]
        if (stats) for (const line of statistics) terminal.note(line)
      }
    } finally {
      progress.clear()
    }
  }
})

interface PromptFiles {
  readonly home: string
  readonly prompts: string
  readonly answers: string | undefined
  readonly settings: PromptRun['settings']
}

/** Answers a file of prompts, and says how far it is. */
async function answerPrompts (
  { home, prompts, answers: path, settings }: PromptFiles,
  terminal: Terminal,
  signal: AbortSignal
): Promise<void> {
  if (path === undefined) throw new UsageError('--prompts needs --answers', 'name the file that gets the answers: --answers answers.jsonl')
  const answers = await AnswersFile.open(path)
  const progress = new ProgressLine(terminal)
  const told = ({ answered, failed, tokens }: PromptProgress): string =>
    `${plural(answered, 'prompt')} answered${failed === 0 ? '' : `, of which ${failed} cannot be`}; ${plural(tokens, 'token')} in this run`
  try {
    if (answers.size > 0) terminal.note(`Going on after ${plural(answers.size, 'answer')} in ${path}`)
    const done = await runPrompts({
      home,
      prompts,
      answers,
      settings,
      onProgress: (so) => { progress.draw(told(so)) },
      onWaiting: (reason) => { progress.wait(reason) }
    }, signal)
    progress.clear()
    terminal.note(told(done))
  } finally {
    progress.clear()
    await answers.close()
  }
}

function contextLine ({ promptTokens, tokens }: ResultOf<'generate'>, maxTokens: number): string {
  return `Ended after ${plural(tokens, 'token')} of the ${maxTokens} that --max-tokens allows: a sequence of this federation holds ${
    promptTokens + tokens
  } tokens, the prompt's ${promptTokens} among them`
}

const ENDINGS = { stop: 'the model ended it', length: 'the limit ended it', context: 'the end of the context ended it' } as const

function statsLine (done: ResultOf<'generate'>): string {
  return `${plural(done.tokens, 'token')} at ${digits(done.tokensPerSecond)} tokens/s (${ENDINGS[done.reason]}), ` +
    `${plural(done.promptTokens, 'prompt token')} in ${seconds(done.prefillSeconds)}, sent ${bytes(done.sentBytes)}, received ${
      bytes(done.receivedBytes)
    }`
}

function networkLine ({ networkShare }: ResultOf<'generate'>): string {
  return `network: ${Math.round(100 * networkShare)}% of the time`
}

function roundTripsLine ({ tokens, roundTrips, draftedTokens, acceptedTokens, releasedStates, reusedTokens }: ResultOf<'generate'>): string {
  return `${plural(roundTrips, 'round trip')}, ${digits(tokens / Math.max(roundTrips, 1))} tokens each: ${
    plural(acceptedTokens, 'token')
  } of ${draftedTokens} drafted were next, ${plural(releasedStates, 'hidden state')} released${
    reusedTokens === 0 ? '' : `, those of ${plural(reusedTokens, 'prompt token')} there from before`
  }`
}

function legLine ({ server, blocks, tokens, replayedTokens, meanMs, share, handsOver }: ResultOf<'generate'>['route'][number]): string {
  const again = replayedTokens === 0 ? '' : `, ${replayedTokens} of them sent again`
  return `blocks ${spanText(blocks)} at ${server}: ${plural(tokens, 'token')}${again}, ${digits(meanMs)} ms an answer, ` +
    `${Math.round(100 * share)}% of the time${handsOver ? ', handed on directly' : ''}`
}

function checkLine ({ server, blocks, verdict, by, wrong, tokens, distance, reason }: StageCheck): string {
  const where = `Check of blocks ${spanText(blocks)} at ${server}`
  const compared = `${plural(tokens, 'token')}, distance ${digits(distance ?? 0)}`
  switch (verdict) {
    case 'agrees':
      return `${where}: ${by.join(' and ')} computed the same (${compared})`
    case 'wrong':
      return `${where}: ${wrong} computed wrong (${compared}, decided by ${by.at(-1)}); it is left out of routes from now on`
    case 'differs':
      return `${where}: ${by[0]} computed something else (${compared}), and which of them is wrong is not decided: ${reason}`
    case 'unchecked':
      return `${where}: not checked, since ${reason}`
  }
}
