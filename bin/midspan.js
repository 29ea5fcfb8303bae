#!/usr/bin/env node
// Plain JavaScript of an older kind: it has to run on the Node versions it turns away.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'

// Runs TypeScript sources as they are, and has what libp2p 3 needs to dial.
const LEAST = [22, 18]

/** @param {string} version */
function isEnough (version) {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > LEAST[0] || (major === LEAST[0] && minor >= LEAST[1])
}

/** The Node that development installs beside the sources, if it is there and new enough. */
function bundledNode () {
  const directory = new URL('../node_modules/node/', import.meta.url)
  const binary = fileURLToPath(new URL('bin/node', directory))
  if (!existsSync(binary)) return undefined
  const { version } = JSON.parse(readFileSync(new URL('package.json', directory), 'utf8'))
  return isEnough(version) ? binary : undefined
}

/** @param {string} binary */
function runWith (binary) {
  const child = spawn(binary, process.argv.slice(1), { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    // A terminal tells the child of Ctrl-C and of its own end as well: a second signal from here would cut its clean stop short.
    process.on(signal, () => { if (signal === 'SIGTERM' || !process.stdin.isTTY) child.kill(signal) })
  }
  child.on('error', (error) => {
    console.error(`midspan: cannot start ${binary}: ${error.message}`)
    process.exitCode = 1
  })
  child.on('exit', (code, signal) => { process.exitCode = signal === null ? code : 128 + constants.signals[signal] })
}

if (isEnough(process.versions.node)) {
  const { restartWithAllocatorSettings } = await import('../src/node/process/allocator.ts')
  restartWithAllocatorSettings()
  await import('../src/cli/main.ts')
} else {
  const binary = bundledNode()
  if (binary === undefined) {
    console.error(
      `midspan: Node ${
        LEAST.join('.')
      } or later is needed, and this is ${process.versions.node}: older ones cannot dial with libp2p 3. Install one from https://nodejs.org, or run npm install in a clone.`
    )
    process.exitCode = 1
  } else {
    runWith(binary)
  }
}
