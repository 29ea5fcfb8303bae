import type { Context } from 'hono'
import { openApiDocument } from '../openapi-document.ts'

/** Describes what this server answers. */
export function openapi (context: Context): Response {
  return context.json(openApiDocument())
}
