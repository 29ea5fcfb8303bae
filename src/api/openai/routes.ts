import type { z } from 'zod'
import { chatChunk, chatCompletion, chatRequest } from './chat.ts'
import { completion, completionRequest } from './completions.ts'
import { health, model, modelList } from './models.ts'

/** Describes what can be asked over HTTP. */
export interface HttpRoute {
  readonly method: 'get' | 'post'
  /** With `{name}` for a part that the caller chooses. */
  readonly path: string
  readonly about: string
  /** Whether it is answered without the bearer token. */
  readonly open?: true
  readonly request?: z.ZodObject
  /** Absent for an answer that has no schema. */
  readonly response?: z.ZodType
  /** What each server-sent event holds where the request asks for a stream. */
  readonly event?: z.ZodType
}

/** Everything that `midspan serve` answers. The server and its OpenAPI document are made from this. */
export const httpRoutes = {
  chatCompletions: {
    method: 'post',
    path: '/v1/chat/completions',
    about: "Answers a conversation, through the model's chat template",
    request: chatRequest,
    response: chatCompletion,
    event: chatChunk
  },
  completions: {
    method: 'post',
    path: '/v1/completions',
    about: 'Continues texts',
    request: completionRequest,
    response: completion,
    event: completion
  },
  models: { method: 'get', path: '/v1/models', about: "Lists the model of the peer's federation", response: modelList },
  model: { method: 'get', path: '/v1/models/{model}', about: 'Describes a model', response: model },
  health: { method: 'get', path: '/health', about: 'Tells whether the daemon answers', open: true, response: health },
  openapi: { method: 'get', path: '/openapi.json', about: 'Describes all of this as an OpenAPI document', open: true }
} as const satisfies Readonly<Record<string, HttpRoute>>

export type HttpRouteName = keyof typeof httpRoutes
