/**
 * Prepares the copy of onnxruntime-node in node_modules/ for the package, which carries it (`bundleDependencies`), and puts it back.
 *
 * As published, onnxruntime-node has an install script that fetches CUDA libraries on Linux x64 from a package feed of another kind, and
 * fails the whole installation where that feed is out of reach. A package cannot switch the script off for those who install it: neither
 * its `.npmrc` nor its `overrides` count there. The copy that Midspan carries has no install script, and only the libraries of the systems
 * that Midspan runs on. Who wants CUDA runs the script by hand: docs/devices.md.
 *
 * `npm pack` calls it: `prepare` before it collects the files, `restore` after.
 */
import { access, lstat, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

interface Manifest {
  readonly version: string
  readonly files?: readonly string[]
  readonly scripts?: Readonly<Record<string, string>>
  readonly devDependencies?: Readonly<Record<string, string>>
}

/**
 * What Midspan needs of the package. Its binding for macOS names libonnxruntime.1.dylib, of which libonnxruntime.1.30.0.dylib is a copy.
 * CUDA's libraries, where somebody has fetched them, stay out: they are hundreds of megabytes.
 */
const FILES = [
  'dist',
  'script/install.js',
  'script/install-utils.js',
  'script/install-metadata.js',
  'script/install-metadata-versions.js',
  ...['linux/x64', 'linux/arm64'].flatMap((system) => [
    `bin/napi-v6/${system}/onnxruntime_binding.node`,
    `bin/napi-v6/${system}/libonnxruntime.so.1`
  ]),
  'bin/napi-v6/darwin/arm64/onnxruntime_binding.node',
  'bin/napi-v6/darwin/arm64/libonnxruntime.1.dylib'
]

const manifestPath = createRequire(import.meta.url).resolve('onnxruntime-node/package.json')
const originalPath = join(dirname(manifestPath), 'package.json.original')

const command = process.argv[2]
if (command === 'prepare') await prepare()
else if (command === 'restore') await restore()
else throw new Error('usage: node scripts/bundle-onnxruntime.ts prepare|restore')

/** Writes the package's manifest anew, under a new inode: npm reads manifests again where their folder has changed. */
async function prepare (): Promise<void> {
  if ((await lstat(join(import.meta.dirname, '../node_modules'))).isSymbolicLink())
    throw new Error('node_modules is a link, through which npm does not carry dependencies of dependencies: run npm ci')
  const text = await readFile(manifestPath, 'utf8')
  const { scripts, devDependencies: _, ...manifest } = JSON.parse(text) as Manifest
  if (scripts === undefined) return // An earlier `npm pack` was cut off before it restored the manifest.
  for (const file of FILES) await access(join(dirname(manifestPath), file)) // A later release may name its libraries otherwise.
  await replace(originalPath, text)
  await replace(manifestPath, `${JSON.stringify({ ...manifest, files: FILES }, undefined, 2)}\n`)
}

async function restore (): Promise<void> {
  await rename(originalPath, manifestPath)
}

async function replace (path: string, text: string): Promise<void> {
  await rm(`${path}.new`, { force: true })
  await writeFile(`${path}.new`, text)
  await rename(`${path}.new`, path)
}
