// A thread that tells, token by token, which tokens keep texts to their forms.
import { parentPort, workerData } from 'node:worker_threads'
import type { GrammarMatcher } from '@mlc-ai/web-xgrammar'
import { loadTokenizer } from '../load.ts'
import { Grammars } from '../structured-output/grammars.ts'
import { failureOf } from './failure.ts'
import type { GrammarAnswer, GrammarQuestion, GrammarThreadData } from './grammar-thread.ts'
import type { Said } from './thread.ts'

const port = parentPort!

function say (said: Said<GrammarAnswer>): void {
  port.postMessage(said)
}

try {
  const { dir, size } = workerData as GrammarThreadData
  const grammars = await Grammars.of(await loadTokenizer(dir), size)
  const matchers = new Map<number, GrammarMatcher>()
  const answer = async (question: GrammarQuestion): Promise<Int32Array | undefined> => {
    const { text } = question
    const matcher = question.kind === 'open' ? await grammars.open(question.format) : matchers.get(text)
    if (question.kind === 'close') {
      matcher?.dispose()
      matchers.delete(text)
      return undefined
    }
    if (matcher === undefined) throw new Error(`there is no text ${text}`)
    if (question.kind === 'open') matchers.set(text, matcher)
    else if (!matcher.acceptToken(question.id)) throw new Error(`token ${question.id} does not keep to the form of the text`)
    // The mask is a view of the library's memory, which the next call changes.
    return matcher.isTerminated() ? undefined : (await matcher.getNextTokenBitmask()).slice()
  }
  // One question after another: the library's calls wait for one another nowhere.
  let last: Promise<void> = Promise.resolve()
  port.on('message', (question: GrammarQuestion) => {
    last = last.then(async () => {
      try {
        say({ answer: { mask: await answer(question) } })
      } catch (error) {
        say({ answer: { failure: failureOf(error), isLast: grammars.hasFailed } })
        if (grammars.hasFailed) port.close()
      }
    })
  })
  say({ answer: { mask: undefined } })
} catch (error) {
  say({ failure: failureOf(error) })
}
