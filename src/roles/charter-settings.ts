import { modelOf, type Model } from '../model/families/index.ts'
import { trainedShapes, type AdapterTraining } from '../model/layers/trainable.ts'
import type { Protection } from '../model/privacy/boundary.ts'
import type { Charter, ClientSettings } from '../protocols/charter/index.ts'
import type { Span } from '../span.ts'
import type { RoleSettings } from './context.ts'
import type { AdapterShape } from './training/aggregation/strategy.ts'

/** The model that a charter describes. */
export function charteredModel (charter: Charter): Model {
  return modelOf(charter.model.config)
}

/** What computes, and on what, for people. */
export function deviceLine ({ device, threads, compute, weights }: Pick<RoleSettings, 'device' | 'threads' | 'compute' | 'weights'>): string {
  const details = [
    ...(threads === undefined ? [] : [`${threads} threads`]),
    ...(weights === 'fp32' ? [] : [`${weights} weights`]),
    ...(compute === 'fp32' ? [] : [`${compute} products`])
  ]
  return details.length === 0 ? device : `${device} (${details.join(', ')})`
}

/** What a charter's federation trains. */
export function trainableOf ({ adapters: { initial, ...adapters }, weights: { blocks, bias } }: Charter): AdapterTraining {
  return { ...adapters, imported: initial !== undefined, blocks, bias }
}

/** Names and shapes of what is trained in these spans, in order. */
export function shapesOf (charter: Charter, spans: readonly Span[]): AdapterShape[] {
  const model = charteredModel(charter)
  return spans.flatMap((span) => trainedShapes(model, trainableOf(charter), span))
}

/** The spans that a client computes itself: before and after the middle. */
export function clientSpans (charter: Charter, { inputBlocks, outputBlocks }: ClientSettings['partition']): [Span, Span] {
  const { blocks } = charter.model
  return [{ first: 0, end: inputBlocks }, { first: blocks - outputBlocks, end: blocks }]
}

/** The blocks that some client of this charter does not compute itself: what its servers serve together. */
export function servableSpan (
  { model: { blocks }, partitions: { inputBlocks, outputBlocks } }: { readonly model: Pick<Charter['model'], 'blocks'> } & Pick<Charter, 'partitions'>
): Span {
  return { first: inputBlocks.min, end: blocks - outputBlocks.min }
}

/** The blocks that no client of this charter may compute itself: without a server of each, nobody is served. There may be none. */
export function coreSpan (
  { model: { blocks }, partitions: { inputBlocks, outputBlocks } }: { readonly model: Pick<Charter['model'], 'blocks'> } & Pick<Charter, 'partitions'>
): Span {
  return { first: inputBlocks.max, end: Math.max(blocks - outputBlocks.max, inputBlocks.max) }
}

/** What protects a client's hidden states and gradients. */
export interface ClientProtection {
  readonly hidden: Protection
  readonly gradient: Protection
  /** Whether the residual stream stays with the client, so that only what the middle adds to it is of released hidden states. */
  readonly keepsStream: boolean
}

/** What protects a client's rows, at the cuts of its partition. */
export function protectionOf (
  charter: Charter,
  { partition: { inputBlocks, outputBlocks }, noise, gradientNoise, keepStream }: ClientSettings
): ClientProtection {
  const { privacy: { clip, clipAlways }, model: { blocks }, wire } = charter
  const protection = (norm: number | undefined, scale: number): Protection => ({
    clip: scale > 0 || clipAlways ? norm ?? null : null,
    noise: scale
  })
  const hidden = protection(clip?.hidden[inputBlocks], noise)
  const gradient = protection(clip?.gradient[blocks - outputBlocks], gradientNoise)
  const isChanged = hidden.clip !== null || gradient.clip !== null
  // Without clip, noise and rounding what leaves is the stream itself, and there is nothing to keep.
  return { hidden, gradient, keepsStream: keepStream === undefined ? isChanged : keepStream && (isChanged || wire !== 'fp32') }
}
