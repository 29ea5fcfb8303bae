/** Writes exported-adapter/, an adapter as a federation exports it, and its base model to DIR: node export_adapter.ts DIR */
import { join } from 'node:path'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { exportTrained } from '../roles/exported.ts'

const [directory] = process.argv.slice(2)
if (directory === undefined) throw new Error('name a directory for the base model')
await writeTinyModel(directory)
await exportTrained(directory, join(import.meta.dirname, 'exported-adapter'))
