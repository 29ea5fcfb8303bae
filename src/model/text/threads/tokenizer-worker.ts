// A thread that holds a tokenizer and answers questions one at a time, in the order they come.
import { parentPort, workerData } from 'node:worker_threads'
import type { DecodeStream } from '../decode-stream.ts'
import { loadTokenizer } from '../load.ts'
import { wordTexts } from '../word-marker.ts'
import { failureOf } from './failure.ts'
import type { Said } from './thread.ts'
import type { Answer, Question, TokenizerFacts } from './tokenizer-thread.ts'

const port = parentPort!

function say (said: Said<TokenizerFacts | Answer>): void {
  port.postMessage(said)
}

try {
  const tokenizer = await loadTokenizer(workerData as string)
  const streams = new Map<number, DecodeStream>()
  const answer = (question: Question): number[] | string[] | string => {
    switch (question.kind) {
      case 'encode': return tokenizer.encode(question.text)
      case 'encodeChat': return question.tools === undefined
        ? tokenizer.encodeChat(question.messages, { addGenerationPrompt: true })
        : tokenizer.encodeChatWithTools(question.messages, question.tools)
      case 'tokenTexts': return tokenizer.tokenTexts(question.ids, question.before)
      case 'wordTexts': return wordTexts(question.ids, tokenizer)
      case 'open':
        streams.set(question.stream, tokenizer.createDecodeStream(question.after))
        return ''
      case 'push': return streams.get(question.stream)?.push(question.id) ?? ''
      case 'end': {
        const rest = streams.get(question.stream)?.flush() ?? ''
        streams.delete(question.stream)
        return rest
      }
    }
  }
  port.on('message', (question: Question) => {
    try {
      say({ answer: { value: answer(question) } })
    } catch (error) {
      say({ answer: { failure: failureOf(error) } })
    }
  })
  const { bosId, eosIds } = tokenizer
  say({ answer: { bosId, eosIds } })
} catch (error) {
  say({ failure: failureOf(error) })
}
