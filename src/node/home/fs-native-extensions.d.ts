/** What Midspan uses of fs-native-extensions, which ships no types: advisory locks that belong to an open file. */
declare module 'fs-native-extensions' {
  /** Takes an exclusive lock on the whole file without waiting. Returns false when another open file has it. */
  export function tryLock (fileDescriptor: number): boolean
  export function unlock (fileDescriptor: number): void
}
