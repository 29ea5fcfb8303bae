import { mkdir, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { makeDirectories } from '../../../src/model/checkpoint/atomic.ts'
import { temporaryDirectory } from '../../node/fixture.ts'

describe('directories that are made', () => {
  it('come with those above them, for whom they are meant', async () => {
    const path = join(await temporaryDirectory(), 'a/b/c')
    await makeDirectories(path, 0o700)
    for (const each of [path, join(path, '..'), join(path, '../..')]) expect((await stat(each)).mode & 0o777).toBe(0o700)
  })

  it('may be there, also by a link', async () => {
    const root = await temporaryDirectory()
    await mkdir(join(root, 'real'))
    await symlink(join(root, 'real'), join(root, 'link'))
    for (const name of ['real', 'link']) await makeDirectories(join(root, name))
  })

  it('are not made where a file or a link to nothing has the name', async () => {
    const root = await temporaryDirectory()
    await writeFile(join(root, 'file'), '')
    await symlink(join(root, 'nowhere'), join(root, 'link'))
    await expect(makeDirectories(join(root, 'file'))).rejects.toMatchObject({ code: 'EEXIST' })
    await expect(makeDirectories(join(root, 'file/a'))).rejects.toMatchObject({ code: 'ENOTDIR' })
    await expect(makeDirectories(join(root, 'link/a'))).rejects.toMatchObject({ code: 'EEXIST' })
  })
})
