import { expect } from 'vitest'
import type { GenerationResult, TestClient } from './helpers.ts'

export const BOS = 1
const TOKENS = 40

/** Some sampling that is the same each time. */
export const sampling = { temperature: 0.9, topK: 40, seed: 11 }

/** A generated text, and the servers that had a part in it. */
export type GeneratedOverRoute = GenerationResult & {
  readonly route: ReadonlyArray<{
    readonly server: string,
    readonly blocks: { readonly first: number, readonly end: number },
    readonly tokens: number,
    readonly replayedTokens: number,
    readonly share: number,
    readonly handsOver: boolean
  }>
}

/** Generates 40 tokens, or as the parameters say otherwise. */
export async function generated ({ peer }: TestClient, parameters: object = {}): Promise<GeneratedOverRoute> {
  return await peer.ask<GeneratedOverRoute>('generate', { ids: [BOS], maxTokens: TOKENS, ...parameters })
}

/** Generates, and lets something happen after some pieces of text. Returns the result and what the client said that it waited for. */
export async function disturbed (
  { peer }: TestClient,
  parameters: object,
  after: number,
  disturb: () => Promise<void>
): Promise<{ readonly result: GeneratedOverRoute, readonly waits: readonly string[] }> {
  const waits: string[] = []
  let pieces = 0
  let last: object | undefined
  let disturbing = Promise.resolve()
  for await (const event of peer.events('generate', { ids: [BOS], maxTokens: TOKENS, ...parameters })) {
    const { type, reason } = event as { type: string, reason?: string }
    if (type === 'waiting') waits.push(reason ?? '')
    if (type === 'text' && ++pieces === after) disturbing = disturb()
    last = event
  }
  await disturbing
  expect(pieces).toBeGreaterThanOrEqual(after)
  return { result: last as GeneratedOverRoute, waits }
}
