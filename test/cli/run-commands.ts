/** Runs commands one after another, `node test/cli/run-commands.ts '[["status","--home","h"]]'`, and prints what came of each as JSON. */
import { run } from './helpers.ts'

const results = []
for (const args of JSON.parse(process.argv[2] ?? '[]') as string[][]) results.push({ args, ...await run(args) })
process.stdout.write(JSON.stringify(results), () => { process.exit(0) })
