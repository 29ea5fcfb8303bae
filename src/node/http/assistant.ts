import { randomUUID } from 'node:crypto'
import type { AnsweredCall, ChatCompletion } from '../../api/openai/chat.ts'
import type { ResultOf } from '../../api/operations.ts'
import { ToolCalls, type ReadPiece } from '../../model/text/tool-calls.ts'
import { finishReasonOf } from './usage.ts'

/** What a piece of an assistant's text came to. */
export interface AssistantPiece {
  readonly text: string
  readonly calls: readonly AnsweredCall[]
}

type Choice = ChatCompletion['choices'][number]

/** One answer of an assistant as its text comes: with tools, its calls are taken out of the text. */
export class Assistant {
  readonly #tools: ToolCalls | undefined
  readonly #calls: AnsweredCall[] = []
  #text = ''

  constructor (hasTools: boolean) {
    this.#tools = hasTools ? new ToolCalls() : undefined
  }

  push (piece: string): AssistantPiece {
    return this.#add(this.#tools?.push(piece) ?? { text: piece, calls: [] })
  }

  /** Returns what was held back, at the end of the text. */
  end (): AssistantPiece {
    return this.#add(this.#tools?.end() ?? { text: '', calls: [] })
  }

  get message (): Choice['message'] {
    const calls = this.#calls
    return {
      role: 'assistant',
      content: this.#text === '' && calls.length > 0 ? null : this.#text,
      refusal: null,
      ...(calls.length === 0 ? {} : { tool_calls: calls })
    }
  }

  /** The number of calls so far. */
  get callCount (): number { return this.#calls.length }

  /** Returns why the answer ended. One that a limit cut off is not said to ask for tools: a call may be missing. */
  finishReason (done: ResultOf<'generate'>): Choice['finish_reason'] {
    const reason = finishReasonOf(done)
    return reason === 'stop' && this.#calls.length > 0 ? 'tool_calls' : reason
  }

  #add ({ text, calls: written }: ReadPiece): AssistantPiece {
    const calls = written.map((call): AnsweredCall => ({ id: `call_${randomUUID()}`, type: 'function', function: { ...call } }))
    this.#text += text
    this.#calls.push(...calls)
    return { text, calls }
  }
}
