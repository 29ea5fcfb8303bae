import { encodedBytes } from '../encoding.ts'
import type { Charter } from '../protocols/charter/schema.ts'
import * as generate from '../protocols/generate/constants.ts'
import * as handover from '../protocols/handover/constants.ts'
import * as stage from '../protocols/stage/constants.ts'
import * as train from '../protocols/train/constants.ts'
import type { BodyLimits } from '../protocols/wire/body.ts'
import { IDLE_TIMEOUT_MS } from '../protocols/wire/constants.ts'

/** A parameter's value and two moments, with its step count beside them. */
const STATE_COPIES = 4

/** Bytes of float32 adapters on every block of the model. */
export function adapterBytes (shapes: ReadonlyArray<{ readonly shape: readonly number[] }>): number {
  return 4 * shapes.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0)
}

/** What one frame of a training stream may hold: the rows of a round, or the state of the adapters. */
export function trainLimits (charter: Charter, shapes: ReadonlyArray<{ readonly shape: readonly number[] }>): BodyLimits {
  return {
    maxMessageBytes: train.MAX_MESSAGE_BYTES,
    maxTensors: train.MAX_TENSORS,
    maxTensorBytes: Math.max(
      encodedBytes(charter.wire, charter.training.maxTokensPerClient, charter.model.hidden),
      STATE_COPIES * adapterBytes(shapes) + 8 * STATE_COPIES * shapes.length
    )
  }
}

/** Servers whose own parameters a state of training has, where each server has some: more than replicate one block. */
const MAX_REPLICAS = 64

/** Bytes of a whole state of training, as the coordinator keeps it: parameters, moments and averages, once for each replica. */
export function maxStateBytes (charter: Charter, shapes: ReadonlyArray<{ readonly shape: readonly number[] }>): number {
  const one = STATE_COPIES * adapterBytes(shapes) + 8 * STATE_COPIES * shapes.length
  return one * (charter.averageEvery === undefined ? 2 : 2 + MAX_REPLICAS)
}

/** What one frame of a generation stream may hold: the rows of the longest prompt. */
export function generateLimits (charter: Charter): BodyLimits {
  return {
    maxMessageBytes: generate.MAX_MESSAGE_BYTES,
    maxTensors: generate.MAX_TENSORS,
    maxTensorBytes: encodedBytes(charter.wire, charter.limits.maxSequenceTokens, charter.model.hidden)
  }
}

/** What one frame between two servers of a chain may hold: what a generation stream may. */
export function handoverLimits (charter: Charter): BodyLimits {
  return { ...generateLimits(charter), maxMessageBytes: handover.MAX_MESSAGE_BYTES, maxTensors: handover.MAX_TENSORS }
}

/** What one frame of a stage stream may hold: hidden states of several clients or of one, or a part of the adapters. */
export function stageLimits (charter: Charter, shapes: ReadonlyArray<{ readonly shape: readonly number[] }>): BodyLimits {
  const { wire, model: { hidden }, training: { maxTokensPerClient } } = charter
  return {
    maxMessageBytes: stage.MAX_MESSAGE_BYTES,
    maxTensors: stage.MAX_TENSORS,
    maxTensorBytes: Math.max(
      encodedBytes(wire, Math.max(stage.MAX_STAGE_TOKENS, maxTokensPerClient), hidden),
      stage.MAX_ADAPTER_PART_BYTES,
      ...new Set(shapes.map((shape) => adapterBytes([shape])))
    )
  }
}

/** How long a session may wait for a message: a client may compute for a whole round's deadline, and a server wait for others as long. */
export function idleTimeoutOf ({ training: { roundDeadlineMs } }: Charter): number {
  return Math.max(IDLE_TIMEOUT_MS, 2 * roundDeadlineMs)
}
