import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { generateKeyPair } from '@libp2p/crypto/keys'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { inviteIn, readInvite } from '../../src/cli/invite-text.ts'
import { createInvite, formatInvite } from '../../src/protocols/hello/index.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { recordedTerminal, run } from './helpers.ts'

const soon = (): AbortSignal => AbortSignal.timeout(5_000)

describe('invites as people hand them over', () => {
  let invite = ''

  beforeAll(async () => {
    const key = await generateKeyPair('Ed25519')
    const details = {
      federation: 'ab'.repeat(32), addresses: ['/ip4/127.0.0.1/tcp/4001', '/dns4/example.org/tcp/4001'], role: 'client',
      expiresAtMs: Date.now() + 60_000, uses: 1
    } as const
    do invite = formatInvite(await createInvite(details, key)); while (!invite.includes('--'))
  })

  const broken = (text: string, columns: number, between: string): string =>
    Array.from({ length: Math.ceil(text.length / columns) }, (_, index) => text.slice(index * columns, (index + 1) * columns)).join(between)

  it.each<[string, (invite: string) => string]>([
    ['as they are', (invite) => invite],
    ['with white space around them', (invite) => `  ${invite}\r\n\n`],
    ['in quotation marks', (invite) => `"${invite}"`],
    ['in typographic quotation marks', (invite) => `“${invite}”.`],
    ['in angle brackets', (invite) => `<${invite}>`],
    ['in a code block', (invite) => `\`\`\`\n${invite}\n\`\`\``],
    ['broken into lines', (invite) => broken(invite, 76, '\n')],
    ['broken into lines as Windows does', (invite) => broken(invite, 60, '\r\n')],
    ['broken by mail', (invite) => broken(invite, 75, '=\n')],
    ['with spaces for the line breaks', (invite) => broken(invite, 70, ' ')],
    ['quoted in a reply', (invite) => broken(invite, 70, '\n').replace(/^/gm, '> ')],
    ['quoted twice', (invite) => broken(invite, 70, '\n').replace(/^/gm, '>> ')],
    ['in a message', (invite) => `Hello Ada,\n\nhere it is:\n\n${broken(invite, 72, '\n')}\n\nBest\nBob\n`],
    ['with a word after them', (invite) => `${invite} thanks`],
    ['with a word on the next line', (invite) => `${invite}\nthanks`],
    ['in a file of UTF-16', (invite) => Buffer.from(`\ufeff${invite}\r\n`, 'utf16le').toString('utf8')],
    ['in bold', (invite) => `**${invite}**`],
    ['in a table', (invite) => `| ${invite} | 24h |`],
    ['with a capital letter', (invite) => invite.replace('m', 'M')],
    ['in capital letters as far as that may be', (invite) => invite.replace('midspan', 'MIDSPAN')],
    ['as a link', (invite) => invite.replace(':', '%3A')],
    ['with a wide colon', (invite) => invite.replace(':', '\uff1a')],
    ['with a space before them', (invite) => invite.replace(':', ': ')],
    ['with dashes for two hyphens', (invite) => invite.replaceAll('--', '\u2014')],
    ['with hyphens at which no line breaks', (invite) => invite.replaceAll('-', '\u2011')],
    ['with spaces at which no line breaks', (invite) => broken(invite, 70, '\u00a0')],
    ['twice', (invite) => `${invite}\n${invite}`],
    ['in brackets', (invite) => `(${invite})`],
    ['with characters without a width', (invite) => `\ufeff${invite.slice(0, 20)}\u200b${invite.slice(20)}`]
  ])('are found %s', async (_, changed) => {
    expect(await inviteIn(changed(invite))).toBe(invite)
  })

  it('are found however lines are broken and quoted', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 8, max: 100 }),
        fc.constantFrom('\n', '\r\n', '\n> ', '\n>>  ', ' \n ', '\t'),
        fc.constantFrom('', '> ', 'Invite: ', 'a\n'),
        async (columns, between, before) => {
          const [prefix, rest] = [invite.slice(0, 8), invite.slice(8)]
          expect(await inviteIn(`${before}${prefix}${broken(rest, columns, between)}`)).toBe(invite)
        }
      ),
      { numRuns: 40 }
    )
  })

  it('leave a multiaddr as it is', async () => {
    expect(await inviteIn(' "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW"\n')).toBe('/ip4/127.0.0.1/tcp/1/p2p/12D3KooW')
  })

  it('come from a file', async () => {
    const file = join(await temporaryDirectory(), 'invite.txt')
    await writeFile(file, `> ${invite}\n`)
    expect(await readInvite({ argument: '', file }, recordedTerminal(false).terminal, soon())).toBe(invite)
  })

  it('come from standard input, which need not end', async () => {
    const { terminal } = recordedTerminal(false)
    expect(await readInvite({ argument: '-', file: undefined }, terminal, soon(), Readable.from([`${invite}\n`]))).toBe(invite)
    const open = new PassThrough()
    open.write(`${broken(invite, 70, '\n')}\n`)
    expect(await readInvite({ argument: '-', file: undefined }, terminal, soon(), open)).toBe(invite)
  })

  it('are asked for on a terminal', async () => {
    const { terminal, err } = recordedTerminal(true)
    const input = Object.assign(Readable.from([`${invite}\n`]), { isTTY: true })
    await readInvite({ argument: '-', file: undefined }, terminal, soon(), input)
    expect(err.text).toBe('Paste the invite, and press Enter:\n')
  })

  it('are waited for no longer than the signal says', async () => {
    const signal = AbortSignal.timeout(20)
    await expect(readInvite({ argument: '-', file: undefined }, recordedTerminal(false).terminal, signal, new PassThrough())).rejects
      .toThrow()
  })

  it.each<[string, (invite: string) => string]>([
    ['cut off', (invite) => invite.slice(0, -9)],
    ['without its beginning', (invite) => invite.slice(3)],
    ['changed', (invite) => invite.replace(/.$/, '_')]
  ])('are never printed back: %s', async (_, changed) => {
    const home = join(await temporaryDirectory(), 'h')
    const given = changed(invite)
    for (const args of [['join', given], ['join', `"${given}"`]]) {
      const { code, out, err } = await run([...args, '--home', home])
      expect([out, err.includes(given.slice(8, 40))]).toEqual(['', false])
      expect(err).toMatch(/^midspan: [^\n]+ \([^\n]+\)\n$/)
      expect([2, 4]).toContain(code)
    }
  })

  it('are refused twice', async () => {
    await expect(readInvite({ argument: invite, file: '/nowhere' }, recordedTerminal(false).terminal, soon()))
      .rejects.toMatchObject({ code: 'E_USAGE', message: 'there are two invites' })
  })

  it('say which file cannot be read', async () => {
    await expect(readInvite({ argument: '', file: '/nowhere' }, recordedTerminal(false).terminal, soon()))
      .rejects.toMatchObject({ message: '/nowhere: no such file or directory' })
  })
})
