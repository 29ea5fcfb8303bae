/**
 * Builds dist/ from src/: JavaScript, declarations and source maps, and the files beside the sources that a release reads.
 * `npm run build`, and each `npm pack`, calls it.
 */
import { execFileSync } from 'node:child_process'
import { cp, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
const dist = join(root, 'dist')

/** Folders of src/ that hold data which the code reads at run time. */
const DATA = ['cli/demo/model']

await rm(dist, { recursive: true, force: true })
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
execFileSync(process.execPath, [tsc, '--project', join(root, 'tsconfig.build.json')], { stdio: 'inherit' })
for (const folder of DATA) await cp(join(root, 'src', folder), join(dist, folder), { recursive: true })
