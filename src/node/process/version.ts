import { readFileSync } from 'node:fs'

const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { version: string }

/** What this peer calls itself: the name and version of the release. */
export const AGENT = `midspan/${version}`
