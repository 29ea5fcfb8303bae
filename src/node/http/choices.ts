import type { EventOf, GivenParameters } from '../../api/operations.ts'
import type { Backend } from './backend.ts'
import type { GiveBack, Places } from './places.ts'

/** An event of one of several texts. */
export interface ChoiceEvent {
  readonly index: number
  readonly event: EventOf<'generate'>
}

/**
 * Generates several texts, each once it has a place, and yields their events as they come. Where one fails, or the caller ends the loop,
 * all of them end. Throws RequestError where too many texts wait already.
 */
export async function * generateChoices (
  { backend, places }: { readonly backend: Backend, readonly places: Places },
  requests: ReadonlyArray<GivenParameters<'generate'>>,
  signal: AbortSignal
): AsyncGenerator<ChoiceEvent> {
  const left = new AbortController()
  const until = AbortSignal.any([signal, left.signal])
  const texts = places.take(requests.length, until).map((place, index) => text(backend, place, requests[index]!, until))
  const next = async (index: number): Promise<{ index: number, result: IteratorResult<EventOf<'generate'>> }> =>
    ({ index, result: await texts[index]!.next() })
  const pending = new Map(texts.map((_, index) => [index, next(index)]))
  try {
    while (pending.size > 0) {
      const { index, result } = await Promise.race(pending.values())
      if (result.done === true) {
        pending.delete(index)
        continue
      }
      pending.set(index, next(index))
      yield { index, event: result.value }
    }
  } finally {
    left.abort()
    await Promise.allSettled(pending.values())
    await Promise.allSettled(texts.map(async (each) => await each.return(undefined)))
  }
}

async function * text (
  backend: Backend,
  place: Promise<GiveBack>,
  request: GivenParameters<'generate'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'generate'>> {
  const giveBack = await place
  try {
    yield * backend.stream('generate', request, signal)
  } finally {
    giveBack()
  }
}
