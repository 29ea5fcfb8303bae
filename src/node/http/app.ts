import { Hono, type Context } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { httpRoutes, type HttpRoute, type HttpRouteName } from '../../api/openai/routes.ts'
import { needsStack } from '../control/messages.ts'
import { isOwnHost } from './address.ts'
import { MAX_BODY_BYTES } from './body.ts'
import { errorAnswer, RequestError } from './errors.ts'
import { chatCompletions } from './routes/chat-completions.ts'
import { completions } from './routes/completions.ts'
import { health } from './routes/health.ts'
import { model, models } from './routes/models.ts'
import { openapi } from './routes/openapi.ts'
import type { HttpServices } from './services.ts'
import { carriesToken } from './token.ts'

type Handler = (context: Context, services: HttpServices) => Response | Promise<Response>

const handlers: Readonly<Record<HttpRouteName, Handler>> = { chatCompletions, completions, models, model, health, openapi }

/**
 * Makes the HTTP application: each route of `httpRoutes`, behind the checks of the Host header, of the bearer token and of the body's size.
 * It sends no header that lets pages of other origins read its answers (CORS).
 */
export function httpApp (services: HttpServices): Hono {
  const app = new Hono()
  app.use(async (context, next) => {
    if (!isOwnHost(context.req.header('host'), services.hosts))
      throw new RequestError(403, 'host_not_allowed', 'the Host header is not a name of this server: use its address, or give the name to --http-host')
    await next()
  })
  for (const [name, route] of Object.entries<HttpRoute>(httpRoutes)) {
    const path = route.path.replace(/\{(\w+)\}/g, ':$1')
    if (route.open !== true) app.on(route.method, path, requireToken(services.token))
    app.on(
      route.method,
      path,
      bodyLimit({ maxSize: MAX_BODY_BYTES, onError: () => { throw new RequestError(413, 'body_too_large', `the body exceeds ${MAX_BODY_BYTES} bytes`) } }),
      async (context) => await handlers[name as HttpRouteName](context, services)
    )
  }
  app.notFound((context) => {
    throw new RequestError(404, 'unknown_url', `there is no ${context.req.method} ${context.req.path}: /openapi.json has all that there is`)
  })
  app.onError((error, context) => {
    if (isDefectOf(error) && !services.stopping.aborted && !context.req.raw.signal.aborted)
      services.logger.error({ route: context.req.path, err: error }, 'an HTTP request failed by a defect')
    const { status, headers, body } = errorAnswer(error, services.log)
    return context.json(body, status, headers)
  })
  return app
}

function isDefectOf (error: unknown): boolean {
  return !(error instanceof RequestError) && needsStack(error)
}

function requireToken (token: string): (context: Context, next: () => Promise<void>) => Promise<void> {
  return async (context, next) => {
    if (!carriesToken(context.req.header('authorization'), token))
      throw new RequestError(401, 'invalid_api_key', 'the bearer token is missing or wrong: it is in the file http.token of the home', {
        headers: { 'www-authenticate': 'Bearer' }
      })
    await next()
  }
}
