import type { Context } from 'hono'
import { checkModel } from '../parameters.ts'
import type { HttpServices } from '../services.ts'

/** Lists the one model that there is. */
export function models (context: Context, { model }: HttpServices): Response {
  return context.json({ object: 'list', data: [model] })
}

/** Describes a model by its id. Throws RequestError where there is no such model. */
export function model (context: Context, { model }: HttpServices): Response {
  checkModel(context.req.param('model') ?? '', model)
  return context.json(model)
}
