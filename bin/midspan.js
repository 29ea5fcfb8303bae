#!/usr/bin/env node
// Starts the command line. Every Node, however old, has to parse this file, so that it can say which one is needed: no import
// statement, no top-level await, no import.meta.

/** Node 22.18 runs TypeScript sources by itself and has what libp2p 3 needs to dial. */
const LEAST = [22, 18]

/** @param {string} version */
function isEnough (version) {
  const parts = version.split('.').map(Number)
  return parts[0] > LEAST[0] || (parts[0] === LEAST[0] && parts[1] >= LEAST[1])
}

function refuse () {
  console.error(
    `midspan: Node.js ${LEAST.join('.')} or later is needed, and this is ${process.versions.node} ` +
      '(install a newer one from https://nodejs.org, or run npm ci in a clone, which brings one)'
  )
  process.exitCode = 1
}

if (isEnough(process.versions.node)) {
  import('./start.js')
} else {
  // The oldest ones cannot import either, and have nothing else to say.
  import('./bundled-node.js').then(({ runWithBundledNode }) => { if (!runWithBundledNode(isEnough)) refuse() }, refuse)
}
