import { create, fromBinary } from '@bufbuild/protobuf'
import { TokenizerError } from '../errors.ts'
import { Charsmap } from './charsmap.ts'
import { ModelProtoSchema, NormalizerSpecSchema, TrainerSpecSchema, type ModelProto } from './sentencepiece_pb.ts'

/** SentencePiece's ModelProto.SentencePiece.Type, from 1 on. */
const kinds = ['normal', 'unknown', 'control', 'userDefined', 'unused', 'byte'] as const

/** SentencePiece's TrainerSpec.ModelType, from 1 on. */
const modelTypes = ['unigram', 'bpe', 'word', 'char'] as const

/** An entry of the vocabulary; its id is its place. */
export interface Piece {
  readonly text: string
  readonly score: number
  readonly kind: typeof kinds[number]
}

/** What a SentencePiece model file says. */
export interface ModelFile {
  readonly pieces: readonly Piece[]
  readonly algorithm: 'unigram' | 'bpe'
  readonly byteFallback: boolean
  /** What an unknown piece decodes to. */
  readonly unknownText: string
  readonly bos: string
  readonly eos: string
  readonly charsmap: Charsmap | undefined
  readonly addDummyPrefix: boolean
  readonly removeExtraWhitespaces: boolean
  readonly escapeWhitespaces: boolean
  readonly whitespaceAsSuffix: boolean
}

/**
 * Reads a SentencePiece model file; `path` names it in errors. Throws TokenizerError for what is broken or of a kind that Midspan does not
 * compute.
 */
export function parseModelFile (bytes: Uint8Array, path: string): ModelFile {
  const proto = decode(bytes, path)
  const trainer = proto.trainerSpec ?? create(TrainerSpecSchema)
  const normalizer = proto.normalizerSpec ?? create(NormalizerSpecSchema)
  const algorithm = modelTypes[trainer.modelType - 1]
  if (algorithm !== 'unigram' && algorithm !== 'bpe')
    throw new TokenizerError(`${path} holds a ${algorithm ?? `type ${trainer.modelType}`} model; unigram and bpe are read`)
  return {
    pieces: proto.pieces.map(({ piece, score, type }, id) => {
      const kind = kinds[type - 1]
      if (kind === undefined || piece === '' || !Number.isFinite(score))
        throw new TokenizerError(`${path}: piece ${id} is impossible (${JSON.stringify(piece)}, type ${type}, score ${score})`)
      return { text: piece, score, kind }
    }),
    algorithm,
    byteFallback: trainer.byteFallback,
    unknownText: trainer.unkSurface,
    bos: trainer.bosPiece,
    eos: trainer.eosPiece,
    charsmap: normalizer.precompiledCharsmap.byteLength === 0 ? undefined : charsmap(normalizer.precompiledCharsmap, path),
    addDummyPrefix: normalizer.addDummyPrefix,
    removeExtraWhitespaces: normalizer.removeExtraWhitespaces,
    escapeWhitespaces: normalizer.escapeWhitespaces,
    whitespaceAsSuffix: trainer.treatWhitespaceAsSuffix
  }
}

function decode (bytes: Uint8Array, path: string): ModelProto {
  try {
    const proto = fromBinary(ModelProtoSchema, bytes)
    if (proto.pieces.length > 0) return proto
  } catch (error) {
    throw notAModel(path, error)
  }
  throw notAModel(path)
}

function notAModel (path: string, cause?: unknown): TokenizerError {
  return new TokenizerError(`${path} is no SentencePiece model`, 'use the tokenizer.json that belongs to the model', cause)
}

function charsmap (bytes: Uint8Array, path: string): Charsmap {
  const map = Charsmap.parse(bytes)
  if (map === undefined) throw new TokenizerError(`${path}: its character map is cut short`)
  return map
}
