import { describe, expect, it } from 'vitest'
import { httpRoutes } from '../../../src/api/openai/routes.ts'
import { openApiDocument } from '../../../src/node/http/openapi-document.ts'

interface Document {
  readonly openapi: string
  readonly paths: Readonly<Record<string, Readonly<Record<string, {
    readonly operationId: string
    readonly security?: readonly object[]
    readonly parameters?: ReadonlyArray<{ readonly name: string, readonly in: string }>
    readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> }
    readonly responses: Readonly<Record<string, { readonly content: Readonly<Record<string, { readonly schema: Schema }>> }>>
  }>>>>
}

interface Schema {
  readonly type?: string
  readonly properties?: Readonly<Record<string, object>>
  readonly required?: readonly string[]
  readonly additionalProperties?: boolean
}

const document = JSON.parse(JSON.stringify(openApiDocument())) as Document

describe('the OpenAPI document', () => {
  it('has every route, once, with what it takes and gives', () => {
    expect(document.openapi).toBe('3.1.0')
    const described = Object.entries(document.paths).flatMap(([path, methods]) => Object.keys(methods).map((method) => `${method} ${path}`))
    expect(described).toEqual(Object.values(httpRoutes).map(({ method, path }) => `${method} ${path}`))
    const ids = Object.values(document.paths).flatMap((methods) => Object.values(methods).map(({ operationId }) => operationId))
    expect(new Set(ids).size).toBe(ids.length)
    expect(document.paths['/v1/models/{model}']!.get!.parameters).toMatchObject([{ name: 'model', in: 'path' }])
  })

  it('says that fields with a default may be left out of a request, and that others are refused', () => {
    const schema = document.paths['/v1/chat/completions']!.post!.requestBody!.content['application/json']!.schema
    expect(schema.required).toEqual(['messages', 'model'])
    expect(schema.additionalProperties).toBe(false)
    expect(schema.properties).toHaveProperty('stop')
  })

  it('describes the events of a stream, and errors', () => {
    const { 200: ok, default: failed } = document.paths['/v1/chat/completions']!.post!.responses
    expect(Object.keys(ok!.content)).toEqual(['application/json', 'text/event-stream'])
    expect(failed!.content['application/json']!.schema).toEqual({ $ref: '#/components/schemas/Error' })
  })

  it('asks for the token everywhere but where none is needed', () => {
    const open = Object.entries(document.paths)
      .filter(([, methods]) => Object.values(methods).some(({ security }) => security?.length === 0))
    expect(open.map(([path]) => path)).toEqual(['/health', '/openapi.json'])
  })
})
