/** A parsed JSON object. */
export type Json = Readonly<Record<string, unknown>>

/** The special tokens that tokenizer_config.json names and chat templates may use. */
const specialTokenNames = ['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token'] as const

export type SpecialTokens = Readonly<Partial<Record<typeof specialTokenNames[number], string>>>

/** Returns the special tokens of a tokenizer_config.json by their roles. */
export function tokenContents (tokenizerConfig: Json): SpecialTokens {
  return Object.fromEntries(specialTokenNames.flatMap((name) => {
    const content = tokenContent(tokenizerConfig[name])
    return content === undefined ? [] : [[name, content]]
  }))
}

/** A token beyond the vocabulary file's own. */
export interface AddedToken {
  readonly id: number
  readonly content: string
  /** Whether it is no part of the text. */
  readonly special: boolean
}

/**
 * Returns the tokens added to a vocabulary: those of tokenizer_config.json, and of added_tokens.json (`{ "<pad>": 32000 }`), which older
 * directories have.
 */
export function addedTokens (tokenizerConfig: Json, addedTokensFile: Json): AddedToken[] {
  const listed = Object.entries(objectOf(tokenizerConfig.added_tokens_decoder)).flatMap(([id, token]) => {
    const content = tokenContent(token)
    return content === undefined || !/^\d{1,9}$/.test(id) ? [] : [{ id: Number(id), content, special: objectOf(token).special !== false }]
  })
  const older = Object.entries(addedTokensFile).flatMap(([content, id]) => isId(id) ? [{ id, content, special: true }] : [])
  return [...older, ...listed]
}

/** Configurations write one id, several, or null. */
export function idsOf (value: unknown): number[] {
  return (Array.isArray(value) ? value : [value]).filter(isId)
}

function isId (value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

/** Reads a special token, which is written as a string or as an object around it. */
function tokenContent (token: unknown): string | undefined {
  if (typeof token === 'string') return token
  const { content } = objectOf(token)
  return typeof content === 'string' ? content : undefined
}

function objectOf (value: unknown): Json {
  return typeof value === 'object' && value !== null ? value as Json : {}
}
