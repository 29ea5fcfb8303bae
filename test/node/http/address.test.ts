import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { authorityOf, isLoopback, isOwnHost, parseHttpAddress } from '../../../src/node/http/address.ts'

describe('an address of an HTTP server', () => {
  it.each([
    ['4010', { host: '127.0.0.1', port: 4010 }],
    ['0.0.0.0:80', { host: '0.0.0.0', port: 80 }],
    ['[::1]:4010', { host: '::1', port: 4010 }],
    ['localhost:0', { host: 'localhost', port: 0 }],
    ['127.0.0.1', undefined],
    ['127.0.0.1:65536', undefined],
    ['[127.0.0.1]:1', undefined],
    ['::1:4010', undefined],
    ['a/b:1', undefined],
    ['', undefined]
  ])('is read from %s', (text, address) => {
    expect(parseHttpAddress(text)).toEqual(address)
  })

  it('is written as it was read', () => {
    for (const text of ['0.0.0.0:80', '[::1]:4010', 'localhost:0']) expect(authorityOf(parseHttpAddress(text)!)).toBe(text)
  })

  it('is on loopback where no other machine reaches it', () => {
    expect(['127.0.0.1', '127.1.2.3', '::1', 'localhost'].every(isLoopback)).toBe(true)
    expect(['0.0.0.0', '::', '192.0.2.1', 'example.org', '127.example.org'].some(isLoopback)).toBe(false)
  })
})

describe('a Host header', () => {
  const names = new Set(['gpu.example.org'])

  it.each(['127.0.0.1:4010', '127.0.0.1', '[::1]:4010', '192.0.2.7', 'localhost:4010', 'LOCALHOST', 'gpu.example.org:443', 'GPU.example.org.'])(
    'names the server as %s',
    (host) => { expect(isOwnHost(host, names)).toBe(true) }
  )

  it.each([undefined, '', 'attacker.example', 'attacker.example:4010', 'localhost.attacker.example', '127.0.0.1.attacker.example', 'a@127.0.0.1', '[gpu.example.org]', '127.0.0.1/x'])(
    'does not as %s',
    (host) => { expect(isOwnHost(host, names)).toBe(false) }
  )

  it('is no name of the server where it is any other text', () => {
    fc.assert(fc.property(fc.string(), (host) => {
      if (isOwnHost(host, new Set())) expect(host).toMatch(/^(localhost\.?|[\d.]+|\[[\da-f:.]+\])(:\d+)?$/i)
    }))
  })
})
