import { z } from 'zod'
import { errorBody } from '../../api/openai/fields.ts'
import { httpRoutes, type HttpRoute } from '../../api/openai/routes.ts'
import { AGENT } from '../process/version.ts'

const JSON_TYPE = 'application/json'

/** Returns an OpenAPI 3.1 document of every route, made from their schemas. */
export function openApiDocument (): object {
  return {
    openapi: '3.1.0',
    info: {
      title: 'Midspan',
      version: AGENT.replace('midspan/', ''),
      description: 'The part of the OpenAI API that Midspan serves: text generation across a federation.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' }
    },
    servers: [{ url: '/' }],
    security: [{ bearer: [] }],
    paths: Object.fromEntries(Object.entries<HttpRoute>(httpRoutes).map(([name, route]) =>
      [route.path, { [route.method]: operationOf(name, route) }])),
    components: {
      securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } },
      schemas: { Error: schemaOf(errorBody, 'output') }
    }
  }
}

function operationOf (name: string, { path, about, open, request, response, event }: HttpRoute): object {
  const parameters = [...path.matchAll(/\{(\w+)\}/g)].map(([, parameter]) =>
    ({ name: parameter, in: 'path', required: true, schema: { type: 'string' } }))
  return {
    operationId: name,
    summary: about,
    ...(open === true ? { security: [] } : {}),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(request === undefined ? {} : { requestBody: { required: true, content: { [JSON_TYPE]: { schema: schemaOf(request, 'input') } } } }),
    responses: {
      200: {
        description: about,
        content: {
          [JSON_TYPE]: { schema: response === undefined ? { type: 'object' } : schemaOf(response, 'output') },
          ...(event === undefined ? {} : { 'text/event-stream': { schema: schemaOf(event, 'output') } })
        }
      },
      default: {
        description: 'What went wrong, and what to do about it',
        content: { [JSON_TYPE]: { schema: { $ref: '#/components/schemas/Error' } } }
      }
    }
  }
}

/** Returns the JSON Schema of what a caller sends (`input`, where a field with a default may be absent) or gets (`output`). */
function schemaOf (schema: z.ZodType, io: 'input' | 'output'): object {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io })
  return rest
}
