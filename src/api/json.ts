/** Values of other programs may be nested so deep: what copies them calls itself for each level. */
export const MAX_JSON_DEPTH = 64

/** Returns whether at most `maxDepth` objects and lists of a JSON value are within one another. It does not call itself. */
export function isShallow (value: unknown, maxDepth = MAX_JSON_DEPTH): boolean {
  let level = [value].filter(isContainer)
  for (let depth = 1; level.length > 0; depth++) {
    if (depth > maxDepth) return false
    level = level.flatMap((each) => Object.values(each) as unknown[]).filter(isContainer)
  }
  return true
}

function isContainer (value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
