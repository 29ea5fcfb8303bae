import { chmod } from 'node:fs/promises'
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { UsageError } from '../../errors.ts'
import { readIfPresent, replaceFile } from './home.ts'

/**
 * Returns the identity kept at `path`; a new one, readable by its owner alone, where there is none. Only who has locked the home may call
 * it.
 */
export async function loadOrCreateIdentity (path: string): Promise<Ed25519PrivateKey> {
  return await loadIdentity(path) ?? await createIdentity(path)
}

/**
 * Returns the identity kept at `path`, from now on its owner's alone, or undefined where there is none. Throws UsageError when the file is
 * not an Ed25519 key.
 */
export async function loadIdentity (path: string): Promise<Ed25519PrivateKey | undefined> {
  const bytes = await readIfPresent(path)
  if (bytes === undefined) return undefined
  await chmod(path, 0o600).catch(() => {}) // a copy that was put back; a file system without modes has none to set
  try {
    const key = privateKeyFromProtobuf(bytes)
    if (key.type === 'Ed25519') return key
  } catch (error) {
    throw notAnIdentity(path, error)
  }
  throw notAnIdentity(path)
}

async function createIdentity (path: string): Promise<Ed25519PrivateKey> {
  const key = await generateKeyPair('Ed25519')
  await replaceFile(path, privateKeyToProtobuf(key))
  return key
}

function notAnIdentity (path: string, cause?: unknown): UsageError {
  return new UsageError(
    `${path} does not hold an Ed25519 key`,
    'restore it from a copy, or delete it to become a new peer, which federations must admit anew',
    cause
  )
}
