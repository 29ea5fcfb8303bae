import { execFileSync } from 'node:child_process'
import { chmod, mkdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { homeAt } from '../../../src/node/home/home.ts'
import { checkHome } from '../../../src/node/home/open-to-others.ts'
import { run } from '../../cli/helpers.ts'
import { temporaryDirectory } from '../fixture.ts'

describe('a home that other users can write to', () => {
  it('is refused, with the way out', async () => {
    const root = await temporaryDirectory()
    await chmod(root, 0o777)
    await expect(checkHome(homeAt(root))).rejects.toMatchObject({
      code: 'E_HOME_OPEN',
      next: expect.stringContaining(`chmod 700 ${root}`) as string
    })
    for (const args of [['status'], ['daemon'], ['init', '--model', root, '--name', 'x'], ['join', '/ip4/127.0.0.1/tcp/1']])
      expect(await run([...args, '--home', root])).toMatchObject({ code: 2, err: expect.stringContaining(root) as string })
  })

  it.each([
    'config.yaml', 'identity.key', 'charter.json', 'servers.json', 'admission.json', 'lead.bin', 'mandates.json', 'adapter.safetensors'
  ])('is refused for its %s', async (name) => {
    const root = await temporaryDirectory()
    const file = join(root, name)
    await writeFile(file, '')
    await chmod(file, 0o666)
    await expect(checkHome(homeAt(root))).rejects.toMatchObject({ next: expect.stringContaining(`chmod 600 ${file}`) as string })
    await chmod(file, 0o600)
    await checkHome(homeAt(root))
  })

  it.each(['state', 'model', 'runs', 'run'])('is refused for its directory %s', async (name) => {
    const root = await temporaryDirectory()
    await mkdir(join(root, name))
    await chmod(join(root, name), 0o777)
    await expect(checkHome(homeAt(root))).rejects.toMatchObject({ next: expect.stringContaining(`chmod 700 ${join(root, name)}`) as string })
  })

  it.each(['log', 'lock'] as const)('is refused where its %s is a pipe', async (name) => {
    const home = homeAt(await temporaryDirectory())
    execFileSync('mkfifo', [home[name]])
    await expect(checkHome(home)).rejects.toMatchObject({ message: `the ${name} ${home[name]} is not a file` })
  })

  it.each(['log', 'lock'] as const)('is refused where its %s is a link', async (name) => {
    const root = await temporaryDirectory()
    const elsewhere = join(await temporaryDirectory(), 'precious')
    await writeFile(elsewhere, 'as it was')
    await symlink(elsewhere, homeAt(root)[name])
    await expect(checkHome(homeAt(root))).rejects.toMatchObject({ message: expect.stringContaining('symbolic link') as string })
  })

  it('may be absent', async () => {
    await checkHome(homeAt('/nowhere'))
  })

  it('is not made safe by a --config file that others can write to', async () => {
    const file = join(await temporaryDirectory(), 'options.yaml')
    await writeFile(file, 'home: /nowhere\n')
    await chmod(file, 0o666)
    expect(await run(['status', '--config', file])).toMatchObject({ code: 2, err: expect.stringContaining(`chmod o-w ${file}`) as string })
  })
})
