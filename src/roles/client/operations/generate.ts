import { randomUUID } from 'node:crypto'
import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import type { StageCheck } from '../../../api/stage-checks.ts'
import { isRetryable, MidspanError } from '../../../errors.ts'
import type { Model } from '../../../model/families/index.ts'
import type { SpeculationMode } from '../../../model/generation/speculation/speculation.ts'
import type { TokenConstraint } from '../../../model/generation/token-constraint.ts'
import type { Protection } from '../../../model/privacy/boundary.ts'
import type { WithholdRule } from '../../../model/privacy/withholding.ts'
import { StopTexts } from '../../../model/text/stop-texts.ts'
import { protectionOf } from '../../charter-settings.ts'
import { RouteRecord } from '../../middle/route-record.ts'
import type { LegStatistics } from '../../middle/route-statistics.ts'
import type { Client } from '../client.ts'
import { generateTokens, type GeneratedToken } from '../generation/generator.ts'
import { Notices } from '../generation/notices.ts'
import type { SequenceComponents } from '../generation/sequence.ts'
import { canResume, hasCausalStates, legsSince, TextSequence } from '../generation/text-sequence.ts'
import { sentCapacity, type SequenceWithholding } from '../generation/withheld-sequence.ts'
import { WithheldText } from '../generation/withheld-text.ts'
import type { ClientRuntime } from '../runtime.ts'
import { generationRoute, replayOptions, type GenerationRouteOptions } from '../server-route.ts'
import type { WithheldGate } from '../training/withheld-gate.ts'
import { checkWithholdable, readWithholding } from '../withholding-rules.ts'
import { outputFormatOf } from './output-format.ts'
import { ContextLengthError, promptIds } from './prompt.ts'
import { samplingOf } from './sampling-options.ts'
import { tokenEvent } from './token-event.ts'

/** A chat has room for this number of tokens, or for twice what it has: most chats then send nothing twice. */
const CHAT_TOKENS = 512

/** What a text has while it is made. */
interface Opened {
  text?: TextSequence | undefined
  hasPlace: boolean
  atMs: number
  /** What each server had done before, in a sequence that was kept. */
  legs: readonly LegStatistics[]
  networkMs: number
  freshStates: number
  reusedTokens: number
}

/** Yields text that continues a prompt, as it comes. */
export async function * generate (
  {
    context, runtime, ledger, adapters, sessions, leftOut, caught, verifier, speculation, learntMap, sequences, state, gate
  }: Client,
  {
    maxTokens, handOver, batch: isBatch, timeoutMs, verify, speculate, withhold, stop: stops = [], logprobs, ignoreEos, ...given
  }: ParametersOf<'generate'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'generate'>> {
  const { charter, client: { partition } } = context
  const { tokenizer, grammars, model, boundary, clientModel: { weights } } = runtime
  const prompt = await promptIds(runtime, given)
  const room = charter.limits.maxSequenceTokens - prompt.length
  if (room < 1) throw new ContextLengthError(prompt.length, charter.limits.maxSequenceTokens)
  const format = outputFormatOf(given)
  let constraint: TokenConstraint | undefined
  const withholding = withhold === undefined ? undefined : await withholdingOf(withhold, runtime, gate)
  const notices = new Notices()
  for (const notice of verifier.takeNotices()) notices.add(notice)
  try {
    await adapters.refreshAlone(signal)
  } catch (error) {
    signal.throwIfAborted()
    if (!isRetryable(error) || state.lacking.length > 0) throw error
    notices.add(`${(error as Error).message}: the text is made with the adapters that this client has`)
  }
  const record = verifier.draw(verify) ? new RouteRecord() : undefined
  const routeSettings = { timeoutMs, handOver: handOver && !verifier.mayCheck(verify), isBatch }
  const routeWith = (options: GenerationRouteOptions): SequenceComponents['route'] =>
    generationRoute({ context, leftOut, caught, sessions, adapters }, {
      ...options, ...replayOptions(model), ...(record === undefined ? {} : { record })
    })
  const onWaiting = (reason: string): void => {
    const wrong = caught.all.map(({ server }) => server)
    notices.add(wrong.length === 0 ? reason : `${reason}; left out because they computed wrong: ${wrong.join(', ')}`)
  }
  const opened: Opened = { hasPlace: false, atMs: performance.now(), legs: [], networkMs: 0, freshStates: 0, reusedTokens: 0 }
  const wanted = Math.min(maxTokens, room)
  // What is released of a text follows from the tokens alone that are sent, and so does whether it was released before.
  const sent = withholding === undefined ? prompt : await sentIdsOf(prompt, withholding.rules, runtime)
  const capacity = withholding === undefined
    ? prompt.length + wanted
    : sentCapacity(sent.length, maxTokens, charter.limits.maxSequenceTokens)
  /** A turn of a chat is followed by others. */
  const keeps = given.messages !== undefined && withholding === undefined && record === undefined && hasCausalStates(model)
  const roomy = keeps ? Math.min(charter.limits.maxSequenceTokens, Math.max(2 * capacity, CHAT_TOKENS)) : capacity
  const key = `round ${adapters.round}`
  const { hidden: protection, keepsStream } = protectionOf(charter, context.client)
  const mode = withholding === undefined ? speculationOf(model, protection, speculate) : 'off'
  const drafting = speculation.open(mode, prompt, capacity)
  const map = mode === 'map' ? await learntMap.at(adapters.round) : undefined
  const tokens = async function * (): AsyncGenerator<GeneratedToken> {
    if (format !== undefined) constraint = await grammars.open(format)
    const allows = (kept: TextSequence, common: number): boolean =>
      keeps && kept.isLike(routeSettings) && canResume(model, prompt, kept.released.ids.length, common)
    const found = await sequences.take({ prompt: sent, key, allows }, () => { notices.add('other texts of this client have all of its sessions') }, signal)
    opened.hasPlace = true
    opened.text = found.sequence
    opened.text ??= await withLess(roomy, capacity, async (capacity) => await TextSequence.open(
      { weights, boundary, ledger, routeWith, withholding },
      { protection, keepsStream, partition, capacity, text: randomUUID() },
      { ...routeSettings, onWaiting },
      signal
    ))
    opened.text.begin(onWaiting, map)
    const { sequence } = opened.text
    opened.legs = found.sequence === undefined ? [] : opened.text.legs
    opened.networkMs = found.sequence === undefined ? 0 : opened.text.networkMs
    opened.freshStates = sequence.freshStates
    const rest = sequence.resume(prompt, hasCausalStates(model) ? found.released : undefined)
    opened.reusedTokens = prompt.length - rest.length
    if (sequence.capacity < capacity) await withLess(roomy, capacity, async (capacity) => { await sequence.grow(capacity, signal) })
    opened.atMs = performance.now()
    yield * generateTokens(sequence, rest, samplingOf(given), {
      maxTokens: wanted,
      stopIds: constraint === undefined && (ignoreEos ?? given.ids !== undefined) ? [] : (await tokenizer.facts()).eosIds,
      logProbabilities: logprobs,
      constraint
    }, drafting, signal)
  }
  const giveBack = async (keptOpen: boolean): Promise<void> => {
    if (!opened.hasPlace) return
    opened.hasPlace = false
    await sequences.giveBack(opened.text, { keeps: keptOpen, key })
  }
  const stream = await tokenizer.openDecodeStream(prompt)
  try {
    const ids: number[] = []
    let text = ''
    let stopped = false
    const stopTexts = new StopTexts(stops)
    let stopText: string | undefined
    let firstAtMs = opened.atMs
    for await (const event of notices.among(tokens())) {
      if ('notice' in event) {
        yield { type: 'waiting', reason: event.notice }
        continue
      }
      const { id, stop, logProbabilities } = event
      if (ids.length === 0) firstAtMs = performance.now()
      if (logProbabilities !== undefined && !stop) yield await tokenEvent(tokenizer, ids.at(-1) ?? prompt.at(-1)!, id, logProbabilities)
      ids.push(id)
      stopped = stop
      const passed = stop ? { text: '' } : stopTexts.push(await stream.push(id))
      text += passed.text
      if (passed.text !== '') yield { type: 'text', text: passed.text }
      stopText = passed.stop
      if (stopText !== undefined) break
    }
    if (stopText === undefined) {
      const last = stopTexts.push(await stream.end())
      stopText = last.stop
      const rest = last.text + stopTexts.end()
      text += rest
      if (rest !== '') yield { type: 'text', text: rest }
    }
    const endedAtMs = performance.now()
    const decodeSeconds = (endedAtMs - firstAtMs) / 1000
    const legs = legsSince(opened.text!.legs, opened.legs)
    const route = legs.filter(({ answers }) => answers > 0)
    const networkMs = opened.text!.networkMs - opened.networkMs
    const releasedStates = opened.text!.sequence.freshStates - opened.freshStates
    let checks: StageCheck[] | undefined
    if (record !== undefined && verify !== undefined) {
      // Whoever asks for a check waits for it. What the servers keep of the text is freed before.
      await giveBack(false)
      yield { type: 'waiting', reason: 'other servers compute the same, to check those of the text' }
      checks = await verifier.check(record, signal)
      for (const reason of verifier.takeNotices()) yield { type: 'waiting', reason }
    }
    // A text that a stop text ended has a token under way that it does not need: its sequence is not one to go on with.
    await giveBack(keeps && stopText === undefined)
    yield {
      type: 'done',
      text,
      ids,
      reason: stopped || stopText !== undefined ? 'stop' : ids.length < maxTokens ? 'context' : 'length',
      ...(stopText === undefined ? {} : { stopText }),
      promptTokens: prompt.length,
      tokens: ids.length,
      prefillSeconds: (firstAtMs - opened.atMs) / 1000,
      decodeSeconds,
      tokensPerSecond: ids.length > 1 ? (ids.length - 1) / decodeSeconds : 0,
      roundTrips: drafting.statistics.roundTrips,
      releasedStates,
      reusedTokens: opened.reusedTokens,
      draftedTokens: drafting.statistics.drafted,
      acceptedTokens: drafting.statistics.accepted,
      sentBytes: legs.reduce((sum, { sentBytes }) => sum + sentBytes, 0),
      receivedBytes: legs.reduce((sum, { receivedBytes }) => sum + receivedBytes, 0),
      ...(checks === undefined ? {} : { checks }),
      route: route.map(({ server, span, tokens, replayedTokens, answers, ms, handsOver }) => ({
        server,
        blocks: span,
        tokens,
        replayedTokens,
        meanMs: ms / answers,
        share: Math.min(ms / (endedAtMs - opened.atMs), 1),
        handsOver
      })),
      networkShare: Math.min(networkMs / (endedAtMs - opened.atMs), 1)
    }
  } finally {
    stream.end().catch(() => {}) // ended already, unless the generation was given up
    await giveBack(false)
    constraint?.close()
    drafting.end()
    if (record !== undefined && verify === undefined) verifier.later(record)
  }
}

/** Returns what withholds words of a text. Throws UsageError. */
async function withholdingOf (
  given: string,
  { model, tokenizer }: ClientRuntime,
  gate: Pick<WithheldGate, 'value'>
): Promise<SequenceWithholding & { readonly rules: readonly WithholdRule[] }> {
  checkWithholdable(model)
  const rules = await readWithholding(given)
  return { rules, text: new WithheldText(tokenizer, rules), gate: gate.value }
}

/** Returns the tokens of a prompt that are sent as it stands. */
async function sentIdsOf (prompt: readonly number[], rules: readonly WithholdRule[], { tokenizer }: ClientRuntime): Promise<number[]> {
  const text = new WithheldText(tokenizer, rules)
  await text.push(prompt)
  return text.sentIds
}

/**
 * Returns where drafted tokens come from. With noise each release counts, so that none is made for a draft unless the user asks for it.
 * Nothing is drafted for a model whose rotations depend on how many tokens come at once: its text would be another.
 */
function speculationOf ({ rotary }: Model, { noise }: Protection, wanted: SpeculationMode | undefined): SpeculationMode {
  return rotary.growth === undefined ? wanted ?? (noise > 0 ? 'off' : 'history') : 'off'
}

/** Opens room for more tokens than a text needs, or for as many where a server has no room for more. */
async function withLess<Result> (wanted: number, needed: number, open: (capacity: number) => Promise<Result>): Promise<Result> {
  try {
    return await open(wanted)
  } catch (error) {
    if (wanted > needed && error instanceof MidspanError && error.code === 'E_CACHE_FULL') return await open(needed)
    throw error
  }
}
