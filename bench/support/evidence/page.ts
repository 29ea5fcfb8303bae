import type { Interval } from '../../../src/model/tasks/bootstrap.ts'
import { protectedSystem } from './protections.ts'
import type { Result } from './result.ts'
import { summarise, type Difference, type Summary } from './summary.ts'

/** Renders the document of a result, with the path of its picture as the document names it. */
export function pageOf (result: Result, picture: string): string {
  const { plan, machine, command, absent, complete, cells, problems } = result
  const seconds = cells.reduce((sum, { trainingSeconds, judgingSeconds }) => sum + trainingSeconds + judgingSeconds, 0)
  const sections = problems.map((problem) => sectionOf(result, problem, summarise(problem.name, cells)))
  return `# Does federating pay? Base, alone, federated, centralised

Made by \`${command}\` from [evidence.json](evidence.json); nothing on this page is written by hand. Model ${plan.model}, ${
  plan.clients
} clients, seeds ${plan.seeds.join(', ')}. ${machine.cores} cores (${machine.processor}), Node.js ${machine.node}; the cells took ${
  Math.round(seconds / 60)
} minutes together.
${complete ? '' : '\n**Not all cells are there**: the same command goes on where it stopped.\n'}${
  absent.length === 0 ? '' : `\nSkipped, since their files are not on this machine: ${absent.join(', ')}.\n`
}
## What is compared

- **base**: the model as it is.
- **alone 1, alone 2, …**: each client trains the adapters by itself, on its own batches, for as many rounds. *alone, mean* is the mean over clients.
- **federated**: the clients train together, real peers and sockets on loopback, one block at either end with each client, ${
  plan.wire
} on the wire, no noise.
${
  plan.protections.length === 0 ? '' : `- **${plan.protections.map(protectedSystem).join('**, **')}** (${plan.protectedProblems.join(', ')}): federated, with noise on hidden
  states and gradients over the clip that \`midspan init\` measures, or with words whose states never leave. The adapters are judged without either.
`}- **centralised**: one machine takes the same batches of all clients in the same rounds, and one step on their sum.

Without rounding, federated and centralised training are the same computation. What is rounded to fp16 or int8 on the wire moves the adapters a little, and
AdamW's first steps, which are as long for a small gradient as for a large one, make more of it.

All have the same budget: the same records, rounds, sequences, learning rate (${plan.learningRate}, constant), adapters (LoRA, r ${plan.loraR}, alpha ${
  plan.loraAlpha
}, the modules that \`midspan init\` adapts), AdamW and clipping as \`midspan init\` has them. A seed fixes the split, the order of the records and the initial adapters. All adapters are judged on one machine on the same questions: without noise, an
evaluation across the network computes the same. What is classified or chosen is the likeliest answer; summaries are generated greedily.

An interval holds 95 % of 1,000 bootstrap resamples of the questions, with the mean over seeds taken in each: it says what other questions
would change. What other seeds change is seen in the figures of the single seeds.

![Base, alone, federated and centralised](${picture})

${sections.join('\n')}
## Again

\`\`\`sh
${command}
\`\`\`

The run goes on where it was stopped. \`npm run evidence -- --render\` makes this page from \`evidence.json\` alone.
`
}

function sectionOf (
  { plan, cells }: Result,
  { name, about, metric, split, field }: Result['problems'][number],
  { rows, differences, questions, fromCentralised, otherwiseAnswered, wireBytes, leaks = [] }: Summary
): string {
  const settings = plan.problems[name]!
  const pairs = cells.filter(({ problem, system }) => problem === name && system === 'federated').length
  const table = tableOf(
    ['', `${metric}, interval`, 'of each seed', 'loss of a right token, interval'],
    rows.map(({ system, score, loss, seeds }) => [
      system, intervalText(score), seeds.map(({ score }) => fixed(score)).join(', '), intervalText(loss)
    ])
  )
  const compared = tableOf(
    ['difference', metric, 'loss', 'so that'],
    differences.map((difference) => [
      `${difference.of} − ${difference.from}`,
      intervalText(difference.score, signed),
      intervalText(difference.loss, signed),
      conclusionOf(difference)
    ])
  )
  return `## ${name}

${about}. Split ${split}${field === '' ? '' : ` (${field})`}; ${settings.rounds} rounds of ${settings.sequences} sequences a client, up to ${
  settings.perClient
} records a client, ${questions} questions.

${table}

${compared}
${leakText(leaks, rows)}${equalityText({ fromCentralised, otherwiseAnswered, wireBytes }, questions * pairs)}`
}

/** Shows what each federation let leak beside what it learnt. */
function leakText (leaks: NonNullable<Summary['leaks']>, rows: Summary['rows']): string {
  if (leaks.length === 0) return ''
  const percent = (value: number, error: number): string => `${(100 * value).toFixed(1)} % ± ${(100 * error).toFixed(1)}`
  const table = tableOf(['', 'tokens recovered', 'leak', 'withheld', 'metric', 'loss'], leaks.map((each) => {
    const row = rows.find(({ system }) => system === each.system)!
    return [
      each.system, percent(each.recovered, each.recoveredError), percent(each.leak, each.leakError),
      `${(100 * each.withheldShare).toFixed(0)} %`, fixed(row.score.value), fixed(row.loss.value)
    ]
  }))
  return `
What leaves in hidden states, attacked at one client after the training by whoever knows its first blocks and all words before each (\`midspan audit\`;
means over seeds with the mean of their standard errors, ${leaks[0]!.tokens} tokens in all). The first row is what the states of a federation with noise
would tell without it. The leak is the share of the text's information; withheld words count by
what the words around them tell.

${table}
`
}

type Equality = { readonly [K in 'fromCentralised' | 'otherwiseAnswered' | 'wireBytes']: number | undefined }

function equalityText (
  { fromCentralised, otherwiseAnswered, wireBytes }: Equality,
  questions: number
): string {
  const parts = [
    ...fromCentralised === undefined
      ? []
      : [`the federation's adapters end ${(100 * fromCentralised).toPrecision(2)} % as far from those of centralised training as these went`],
    ...otherwiseAnswered === undefined ? [] : [`${otherwiseAnswered} of ${questions} answers are worth something else`],
    ...wireBytes === undefined ? [] : [`a client sends and receives ${(wireBytes / 2 ** 20).toFixed(1)} MiB in a training`]
  ]
  return parts.length === 0 ? '' : `\n${parts.join('; ').replace(/^./, (first) => first.toUpperCase())}.\n`
}

/** Says in words what a difference comes to: beyond chance by its interval, in the metric and in the loss. */
function conclusionOf ({ of, from, score, loss }: Difference): string {
  if (score.low > 0) return `${of} is better`
  if (score.high < 0) return `${from} is better`
  if (loss.high < 0) return `${of} is better by the loss`
  if (loss.low > 0) return `${from} is better by the loss`
  return 'no difference beyond chance'
}

function tableOf (head: readonly string[], rows: ReadonlyArray<readonly string[]>): string {
  return [head, head.map((_, i) => i === 0 ? '---' : '---:'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function intervalText ({ value, low, high }: Interval, text: (value: number) => string = fixed): string {
  return `${text(value)} [${text(low)}, ${text(high)}]`
}

function fixed (value: number): string {
  return value.toFixed(3)
}

function signed (value: number): string {
  const text = value.toFixed(4)
  return value < 0 ? text.replace('-', '−') : `+${text}`
}
