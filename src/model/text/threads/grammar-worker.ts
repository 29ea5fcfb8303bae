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
  const { utf8 } = grammars
  const texts = new Map<number, { readonly matcher: GrammarMatcher, place: typeof utf8.start }>()
  const answer = async (question: GrammarQuestion): Promise<Int32Array | undefined> => {
    if (question.kind === 'open') texts.set(question.text, { matcher: await grammars.open(question.format), place: utf8.start })
    const text = texts.get(question.text)
    if (question.kind === 'close') {
      text?.matcher.dispose()
      texts.delete(question.text)
      return undefined
    }
    if (text === undefined) throw new Error(`there is no text ${question.text}`)
    const { matcher } = text
    if (question.kind === 'accept') {
      if (!matcher.acceptToken(question.id)) throw new Error(`token ${question.id} does not keep to the form of the text`)
      text.place = utf8.after(text.place, question.id)
    }
    if (matcher.isTerminated()) return undefined
    // The mask is a view of the library's memory, which the next call changes.
    const mask = (await matcher.getNextTokenBitmask()).slice()
    utf8.restrict(mask, text.place)
    return mask
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
