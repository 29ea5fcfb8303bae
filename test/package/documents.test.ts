import { access, glob, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'

const root = join(import.meta.dirname, '../..')

describe('the documents', () => {
  it('link to files that are there', async () => {
    const broken: string[] = []
    for await (const page of glob(['*.md', 'docs/*.md'], { cwd: root })) {
      const text = await readFile(join(root, page), 'utf8')
      for (const [, target] of text.matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)) {
        await access(join(root, dirname(page), target!)).catch(() => { broken.push(`${page}: ${target}`) })
      }
    }
    expect(broken).toEqual([])
  })
})
