// Runs on Node versions that midspan itself turns away.
import { spawn } from 'child_process'
import { existsSync, readFileSync } from 'fs'
import { constants } from 'os'
import { fileURLToPath } from 'url'

/**
 * Starts this process's command again with the Node that a clone's `npm ci` installs beside the sources, and ends as that does.
 * Returns false where there is none, or none new enough.
 * @param {(version: string) => boolean} isEnough
 */
export function runWithBundledNode (isEnough) {
  const directory = new URL('../node_modules/node/', import.meta.url)
  const binary = fileURLToPath(new URL('bin/node', directory))
  if (!existsSync(binary)) return false
  if (!isEnough(JSON.parse(readFileSync(new URL('package.json', directory), 'utf8')).version)) return false
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
  return true
}
