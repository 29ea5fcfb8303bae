import { randomInt } from 'node:crypto'
import type { PeerId } from '@libp2p/interface'
import type { StageCheck, VerificationStatus } from '../../../api/stage-checks.ts'
import type { Encoding } from '../../../encoding.ts'
import { MidspanError } from '../../../errors.ts'
import { spanText, type Span } from '../../../span.ts'
import { joinTensorRows, tensorRows, type Tensor } from '../../../tensor.ts'
import type { Logger, ServerDirectory } from '../../context.ts'
import { firstTokens, joined } from '../../middle/history.ts'
import { REPLAY_TOKENS } from '../../middle/route-cache.ts'
import type { RouteRecord, StageRecord } from '../../middle/route-record.ts'
import type { Stage } from '../../middle/stage.ts'
import type { CaughtServers } from './caught-servers.ts'
import { compare, wrongOf, type Computation } from './verdict.ts'

/** Texts that wait for their check. A text's record takes up to the states of its tokens twice; what comes beyond is not checked. */
const MAX_WAITING = 4

/** How long one server may take to compute a text again: a prefill, and the wait for room in its cache. */
const RECOMPUTE_TIMEOUT_MS = 60_000

/** Servers that are asked for one second computation, where some of them cannot be reached or have other adapters. */
const MAX_ASKED = 3

/** What a user was not told yet. Older words are forgotten. */
const MAX_NOTICES = 10

/** Thrown where servers are to be checked that differ without being wrong. */
export class NotComparableError extends MidspanError {
  constructor () {
    super('E_NOT_COMPARABLE', 'servers of this federation have adapters of their own between two averages: honest ones differ', {
      next: 'leave out --verify'
    })
  }
}

export interface VerifierComponents {
  readonly directory: ServerDirectory
  /** The servers that failed a short time ago. */
  readonly leftOut: { has: (server: string) => boolean }
  readonly caught: CaughtServers
  readonly logger: Logger
  readonly wire: Encoding
  /** The share of texts that are checked where a text does not say otherwise. */
  readonly share: number
  /** False where servers of the same blocks have adapters of their own, so that honest servers differ. */
  readonly isComparable?: boolean
  /** Hidden states that are sent together at most, as when a stage is replaced. */
  readonly replayTokens?: number
  /** Makes a stage of a server. */
  readonly stageOn: (server: PeerId, span: Span) => Pick<Stage, 'openCache'>
  /** Returns a number in [0, 1). */
  readonly random?: () => number
}

/**
 * Has other servers compute again what the servers of a text computed, and compares. A server cannot know beforehand whether a text is
 * checked. The second server is sent what the first was sent, and learns of the text what the first learnt.
 */
export class Verifier {
  readonly #c: VerifierComponents
  readonly #random: () => number
  readonly #stopping = new AbortController()
  readonly #counts = { checked: 0, tokens: 0, differing: 0, unchecked: 0 }
  readonly #notices: string[] = []
  /** Servers with blocks that nobody else serves: the log says so once. */
  readonly #alone = new Set<string>()
  #waiting = 0
  #background: Promise<void> = Promise.resolve()

  constructor (components: VerifierComponents) {
    this.#c = components
    this.#random = components.random ?? unguessable
  }

  get status (): VerificationStatus {
    return {
      share: this.#c.share,
      ...this.#counts,
      caught: this.#c.caught.all.map(({ server, blocks, atMs, tokens, distance }) => ({
        server, blocks, at: new Date(atMs).toISOString(), tokens, distance
      }))
    }
  }

  /** Decides whether a text is checked: its answers have to be kept from the beginning. Throws NotComparableError. */
  draw (share = this.#c.share): boolean {
    if (share > 0 && this.#c.isComparable === false) throw new NotComparableError()
    return this.#random() < share
  }

  /** Whether a text may be checked, which is decided by chance: this client then carries it from server to server, checked or not. */
  mayCheck (share = this.#c.share): boolean {
    return Math.max(share, this.#c.share) > 0
  }

  /** Checks a text that is over, in the background, after those before it. */
  later (record: RouteRecord): void {
    if (this.#waiting >= MAX_WAITING || this.#stopping.signal.aborted) {
      this.#counts.unchecked += record.stages.length
      return
    }
    this.#waiting++
    this.#background = this.#background.then(async () => {
      try {
        await this.check(record, this.#stopping.signal)
      } catch (error) {
        if (!this.#stopping.signal.aborted) this.#c.logger.error({ err: error }, 'a check of servers failed')
      } finally {
        this.#waiting--
      }
    })
  }

  /** Checks every stage of a text. A stage that nobody can compute again is told as such. Throws the signal's reason. */
  async check (record: RouteRecord, signal: AbortSignal): Promise<StageCheck[]> {
    const checks: StageCheck[] = []
    for (const stage of record.stages) {
      const check = await this.#checkStage(stage, signal)
      this.#take(check)
      checks.push(check)
    }
    return checks
  }

  /** Returns what the user has to be told of checks since this was called last. */
  takeNotices (): string[] {
    return this.#notices.splice(0)
  }

  /** Ends the checks in the background. */
  async stop (): Promise<void> {
    this.#stopping.abort(new Error('the client stops'))
    await this.#background
  }

  async #checkStage ({ server, span, arithmetic, states, outputs, rounds }: StageRecord, signal: AbortSignal): Promise<StageCheck> {
    const [round] = rounds
    // What is computed with other adapters cannot be the same: a step may have been taken while the text was made.
    const change = rounds.findIndex((other) => other !== round)
    const compared = change < 0 ? rounds.length : change
    const check = { server, blocks: span, by: [], wrong: null, tokens: 0, distance: null, greatest: null, reason: null }
    if (round === undefined) return { ...check, verdict: 'unchecked', reason: 'the server did not say which round its adapters are of' }
    const question = { span, states: firstTokens(states, compared), round, compared }
    const asked = new Set([server])
    const second = await this.#recompute(question, asked, signal)
    if ('reason' in second) return { ...check, verdict: 'unchecked', reason: second.reason }
    const { wire } = this.#c
    const first = { server, arithmetic, outputs: outputs.map((part) => tensorRows(part, 0, compared)) }
    const { agrees, median, greatest } = compare(first, second, wire)
    const found = { ...check, by: [second.server], tokens: compared, distance: median, greatest }
    if (agrees) return { ...found, verdict: 'agrees' }
    const third = await this.#recompute(question, asked, signal)
    if ('reason' in third) return { ...found, verdict: 'differs', reason: third.reason }
    const by = [second.server, third.server]
    const wrong = wrongOf(first, second, third, wire)
    if (wrong === undefined)
      return { ...found, by, verdict: 'differs', reason: 'a third server agrees with both, or with neither' }
    await this.#c.caught.add({ server: wrong.server, blocks: { ...span }, tokens: compared, distance: median })
    return { ...found, by, verdict: 'wrong', wrong: wrong.server }
  }

  /** Has a server that was not asked yet compute states again with the adapters of a round, or says why none does. */
  async #recompute (question: Question, asked: Set<string>, signal: AbortSignal): Promise<Computation | { readonly reason: string }> {
    let reason = `nobody else serves blocks ${spanText(question.span)}`
    for (const { id, peerId } of this.#others(question.span, asked)) {
      asked.add(id)
      try {
        const computed = await this.#askOne(id, peerId, question, signal)
        if (computed !== undefined) return computed
        reason = 'the adapters of the other servers are of another round'
      } catch (error) {
        signal.throwIfAborted()
        reason = `${id} could not compute the same: ${error instanceof Error ? error.message : String(error)}`
        this.#c.logger.info({ server: id, err: error }, 'a server could not compute again what another did')
      }
    }
    return { reason }
  }

  /** Resolves with undefined where the server's adapters are of another round. */
  async #askOne (
    server: string,
    peerId: PeerId,
    { span, states, round, compared }: Question,
    signal: AbortSignal
  ): Promise<Computation | undefined> {
    const limited = AbortSignal.any([signal, AbortSignal.timeout(RECOMPUTE_TIMEOUT_MS)])
    const cache = await this.#c.stageOn(peerId, span).openCache(span, compared, limited)
    try {
      const { arithmetic } = cache
      const answers: Array<readonly Tensor[]> = []
      for (const part of joined(states, this.#c.replayTokens ?? REPLAY_TOKENS)) {
        answers.push(await cache.forward(part, limited))
        if (arithmetic === undefined || cache.round !== round) return undefined
      }
      const outputs = answers[0]!.map((_, part) => joinTensorRows(answers.map((answer) => answer[part]!)))
      return { server, arithmetic: arithmetic!, outputs }
    } finally {
      await cache.close().catch(() => {}) // what it computed is there, or it failed before
    }
  }

  /** Returns servers with all blocks of a span that were not asked yet, in a random order: nobody can tell beforehand who is asked. */
  #others (span: Span, asked: ReadonlySet<string>): Array<{ readonly id: string, readonly peerId: PeerId }> {
    const { directory, leftOut, caught } = this.#c
    return directory.servers()
      .map(({ peerId, connected, span: served }) => ({ id: peerId.toString(), peerId, connected, served, place: this.#random() }))
      .filter(({ id, connected }) => connected && !asked.has(id) && !leftOut.has(id) && !caught.has(id))
      .filter(({ served }) => served !== undefined && served.first <= span.first && span.end <= served.end)
      .sort((a, b) => a.place - b.place)
      .slice(0, MAX_ASKED)
  }

  #take (check: StageCheck): void {
    const { server, blocks, verdict, by, wrong, tokens, distance, reason } = check
    const { logger } = this.#c
    const where = `blocks ${spanText(blocks)}`
    if (verdict === 'unchecked') {
      this.#counts.unchecked++
      const key = `${server} ${where}`
      if (by.length > 0 || this.#alone.has(key)) return
      this.#alone.add(key)
      logger.info({ server, blocks: spanText(blocks), reason }, 'a server could not be checked')
      return
    }
    this.#counts.checked++
    this.#counts.tokens += tokens
    if (verdict === 'agrees') return
    const details = { server, blocks: spanText(blocks), by, wrong, tokens, distance }
    if (verdict === 'wrong') {
      logger.warn(details, 'a server computes wrong: routes leave it out')
      this.#tell(`${wrong} computed ${where} wrong, as two other servers found: routes leave it out`)
    } else {
      this.#counts.differing++
      logger.warn({ ...details, reason }, 'two servers do not agree, and which of them is wrong is not decided')
      this.#tell(`${server} and ${by[0]} do not agree on ${where}; which of them is wrong is not decided (${reason})`)
    }
  }

  #tell (notice: string): void {
    this.#notices.push(notice)
    this.#notices.splice(0, this.#notices.length - MAX_NOTICES)
  }
}

/** What a server is to compute again. */
interface Question {
  readonly span: Span
  readonly states: ReturnType<typeof firstTokens>
  /** The round of the adapters that the first server had. */
  readonly round: number
  /** How many tokens the states have. */
  readonly compared: number
}

/** Returns a number in [0, 1) that no server can guess from those before it. */
function unguessable (): number {
  return randomInt(2 ** 32) / 2 ** 32
}
