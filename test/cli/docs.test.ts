import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { DOCS_PATH, renderDocs } from '../../src/cli/docs.ts'

describe('docs/cli.md', () => {
  it('is what the options say: remake it with npm run docs', async () => {
    expect(await readFile(DOCS_PATH, 'utf8')).toBe(renderDocs())
  })
})
