import { generateKeyPairSync, sign } from 'node:crypto'

/**
 * A self-signed Ed25519 certificate for localhost, by hand (X.509, RFC 5280; Ed25519, RFC 8410): node:tls wants one, node:crypto makes
 * none.
 */
export function selfSigned (): { key: string, cert: string } {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const ed25519 = der(0x30, Buffer.from('06032b6570', 'hex'))
  const commonName = der(0x30, der(0x31, der(0x30, Buffer.concat([Buffer.from('0603550403', 'hex'), der(0x0c, Buffer.from('localhost'))]))))
  const validity = der(0x30, Buffer.concat([der(0x17, Buffer.from('200101000000Z')), der(0x17, Buffer.from('490101000000Z'))]))
  const body = der(0x30, Buffer.concat([
    Buffer.from('a003020102', 'hex'), Buffer.from('020101', 'hex'), ed25519, commonName, validity, commonName,
    publicKey.export({ type: 'spki', format: 'der' })
  ]))
  const signature = der(0x03, Buffer.concat([Buffer.of(0), sign(null, body, privateKey)]))
  const cert = der(0x30, Buffer.concat([body, ed25519, signature]))
  return {
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    cert: `-----BEGIN CERTIFICATE-----\n${cert.toString('base64')}\n-----END CERTIFICATE-----\n`
  }
}

function der (tag: number, content: Uint8Array): Buffer {
  const { length } = content
  const size = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.of(tag, ...size), content])
}
