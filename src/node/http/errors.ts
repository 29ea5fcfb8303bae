import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { z } from 'zod'
import type { ErrorBody } from '../../api/openai/fields.ts'
import { MidspanError } from '../../errors.ts'
import { errorLine, needsStack } from '../control/messages.ts'

interface RequestErrorOptions {
  /** The field of the request that is at fault. */
  readonly param?: string
  readonly headers?: Readonly<Record<string, string>>
}

/** A request that is refused before a daemon is asked. The code is one of OpenAI's where OpenAI's API has one. */
export class RequestError extends Error {
  readonly status: ContentfulStatusCode
  readonly code: string
  readonly param: string | null
  readonly headers: Readonly<Record<string, string>>

  constructor (status: ContentfulStatusCode, code: string, message: string, { param, headers = {} }: RequestErrorOptions = {}) {
    super(message)
    this.name = 'RequestError'
    this.status = status
    this.code = code
    this.param = param ?? null
    this.headers = headers
  }
}

/** The HTTP status of failures by their codes; another one's is 502, since a peer of the federation is where it comes from. */
const STATUSES: ReadonlyArray<readonly [ContentfulStatusCode, RegExp]> = [
  [400, /^E_(USAGE|TOKENIZER|PROMPT|SAMPLING|CONTEXT_LENGTH|OUTPUT_FORMAT)$/],
  [429, /^E_(BUSY|CACHE_FULL|TOO_MANY_SESSIONS|TOO_OFTEN)$/],
  [503, /^E_(NO_SERVER|SERVER_TIMEOUT|UNREACHABLE|STARTING|NO_DAEMON|DAEMON_GONE|DAEMON_SILENT|STOPPED|STOPPING|NO_OPERATION)$/]
]

/** Codes that OpenAI's API has for the same failures, and that programs look for. */
const OPENAI_CODES: Readonly<Record<string, string>> = { E_CONTEXT_LENGTH: 'context_length_exceeded' }

/** How long who was turned away is asked to wait, in seconds: a short text is done by then. */
const RETRY_AFTER_SECONDS = '1'

/** What a failed request is answered with. */
export interface ErrorAnswer {
  readonly status: ContentfulStatusCode
  readonly headers: Readonly<Record<string, string>>
  readonly body: ErrorBody
}

/** Returns the answer to a request that failed: the words that are meant for people, and of a defect only where the log at `log` is. */
export function errorAnswer (error: unknown, log: string): ErrorAnswer {
  if (error instanceof RequestError) {
    const { status, headers, message, param, code } = error
    return { status, headers, body: { error: { message, type: typeOf(status), param, code } } }
  }
  const { code, message, next } = errorLine(error, log).error
  const status = statusOf(error, code)
  return {
    status,
    headers: status === 429 ? { 'retry-after': RETRY_AFTER_SECONDS } : {},
    body: {
      error: {
        message: next === undefined ? message : `${message} (${next})`,
        type: typeOf(status),
        param: null,
        code: OPENAI_CODES[code] ?? code
      }
    }
  }
}

function statusOf (error: unknown, code: string): ContentfulStatusCode {
  if (!(error instanceof MidspanError) || needsStack(error)) return 500
  return STATUSES.find(([, codes]) => codes.test(code))?.[0] ?? 502
}

function typeOf (status: number): ErrorBody['error']['type'] {
  if (status === 429) return 'rate_limit_error'
  return status >= 500 ? 'server_error' : 'invalid_request_error'
}

/** Returns the refusal of a body that its schema does not accept: it names the first field that is at fault. */
export function schemaError (error: z.ZodError): RequestError {
  const issue = deepest(error.issues[0]!)
  const path = issue.path.map(String)
  if (issue.code === 'unrecognized_keys') {
    const param = [...path, issue.keys?.[0]].join('.')
    return new RequestError(400, 'unsupported_parameter', `${param} is not supported`, { param })
  }
  const param = path.join('.')
  const unsupported = issue.message.startsWith('is not supported')
  const message = unsupported || issue.message.startsWith('is ') ? `${param} ${issue.message}` : `${param}: ${issue.message}`
  return new RequestError(400, unsupported ? 'unsupported_parameter' : 'invalid_value', message, { param })
}

interface Issue {
  readonly code: string
  readonly path: readonly PropertyKey[]
  readonly message: string
  readonly keys?: readonly string[]
}

/** Returns the issue that lies deepest in the value, of the alternatives that a union has: the one that the value comes closest to. */
function deepest (issue: z.core.$ZodIssue): Issue {
  if (issue.code !== 'invalid_union') return issue
  const inner = issue.errors.flatMap((issues) => issues.slice(0, 1)).map(deepest)
  const longest = inner.toSorted((a, b) => b.path.length - a.path.length)[0]
  return longest === undefined || longest.path.length === 0
    ? { ...issue, message: 'has a type that is not read' }
    : { ...longest, path: [...issue.path, ...longest.path] }
}
