import { ReadableStream } from 'node:stream/web'
import type { ErrorBody } from '../../api/openai/fields.ts'

/** Something to send as a server-sent event: what the caller reads, or a remark that it leaves out. */
export type Sent = { readonly data: object } | { readonly comment: string }

const HEADERS = { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache', 'x-accel-buffering': 'no' }

/**
 * Answers with server-sent events, and `[DONE]` as the last. Resolves when there is something to send: what fails before it is thrown, and
 * so has a status of its own. What fails later is the last event, as `failure` words it.
 */
export async function eventStream (events: AsyncGenerator<Sent>, failure: (error: unknown) => ErrorBody): Promise<Response> {
  let first = await events.next()
  while (first.done !== true && 'comment' in first.value) first = await events.next()
  return new Response(ReadableStream.from(encoded(first, events, failure)) as unknown as BodyInit, { headers: HEADERS })
}

async function * encoded (
  first: IteratorResult<Sent>,
  rest: AsyncGenerator<Sent>,
  failure: (error: unknown) => ErrorBody
): AsyncGenerator<Uint8Array> {
  const encoder = new TextEncoder()
  try {
    if (first.done !== true) yield encoder.encode(textOf(first.value))
    for await (const event of rest) yield encoder.encode(textOf(event))
    yield encoder.encode('data: [DONE]\n\n')
  } catch (error) {
    yield encoder.encode(textOf({ data: failure(error) }))
  } finally {
    await rest.return(undefined)
  }
}

/** Returns an event as it is sent. JSON has no line breaks outside of its texts, and none unescaped in them. */
function textOf (sent: Sent): string {
  return 'data' in sent ? `data: ${JSON.stringify(sent.data)}\n\n` : `: ${sent.comment.replace(/[\r\n]+/g, ' ')}\n\n`
}
