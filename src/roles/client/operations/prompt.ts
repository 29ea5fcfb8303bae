import type { Message } from '../../../api/generate.ts'
import type { ParametersOf } from '../../../api/operations.ts'
import { MidspanError, UsageError } from '../../../errors.ts'
import type { ChatMessage } from '../../../model/text/chat-template.ts'
import { joinParts } from '../../../model/text/records.ts'
import type { ClientRuntime } from '../runtime.ts'

/** Thrown for a prompt that leaves no room for a token. */
export class ContextLengthError extends MidspanError {
  constructor (promptTokens: number, sequenceTokens: number) {
    super('E_CONTEXT_LENGTH', `the prompt has ${promptTokens} tokens, and a sequence of this federation ${sequenceTokens}`, {
      next: 'shorten it'
    })
  }
}

/** Returns the tokens of a prompt, of messages as the model's chat template writes them, or of given ids. Throws UsageError. */
export async function promptIds (
  { tokenizer, model }: ClientRuntime,
  { prompt, messages, ids, tools }: Pick<ParametersOf<'generate'>, 'prompt' | 'messages' | 'ids' | 'tools'>
): Promise<readonly number[]> {
  if ([prompt, messages, ids].filter((input) => input !== undefined).length !== 1)
    throw new UsageError('there is not one input', 'give a prompt, messages or ids')
  if (tools !== undefined && messages === undefined) throw new UsageError('tools are for messages', 'give messages, or leave the tools out')
  const unknown = ids?.find((id) => id >= model.vocabularySize)
  if (unknown !== undefined) throw new UsageError(`token ${unknown} is not in the vocabulary of ${model.vocabularySize}`)
  if (ids !== undefined) return ids
  const encoded = messages === undefined ? await tokenizer.encode(prompt ?? '') : await tokenizer.encodeChat(messages.map(chatMessage), tools)
  const start = encoded.length > 0 ? encoded : [(await tokenizer.facts()).bosId].filter((id) => id !== undefined)
  if (start.length === 0) throw new UsageError('the prompt has no tokens', 'give some text')
  return start
}

/** Returns a message as chat templates take it. */
function chatMessage ({ role, content, reasoning_content: thought, name, tool_calls: calls, tool_call_id: call }: Message): ChatMessage {
  return {
    role,
    content: typeof content === 'string' ? content : joinParts(content),
    ...(thought === undefined ? {} : { reasoning_content: thought }),
    ...(name === undefined ? {} : { name }),
    ...(calls === undefined ? {} : { tool_calls: calls }),
    ...(call === undefined ? {} : { tool_call_id: call })
  }
}
