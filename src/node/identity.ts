import { open, readFile } from 'node:fs/promises'
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { UsageError } from '../errors.ts'

/** The identity kept at `path`; a new one, readable by its owner alone, where there is none. */
export async function loadOrCreateIdentity (path: string): Promise<Ed25519PrivateKey> {
  return await loadIdentity(path) ?? await createIdentity(path)
}

/** The identity kept at `path`, or undefined where there is none. Throws UsageError when the file is not an Ed25519 key. */
export async function loadIdentity (path: string): Promise<Ed25519PrivateKey | undefined> {
  let bytes
  try {
    bytes = await readFile(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
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
  const file = await open(path, 'wx', 0o600)
  try {
    await file.writeFile(privateKeyToProtobuf(key))
    await file.sync()
  } finally {
    await file.close()
  }
  return key
}

function notAnIdentity (path: string, cause?: unknown): UsageError {
  return new UsageError(`${path} does not hold an Ed25519 key`, 'restore it from a copy, or delete it to become a new peer, which federations must admit anew', cause)
}
