import type { ResultOf } from '../../api/operations.ts'
import { isLoopback } from '../../node/http/address.ts'
import type { Terminal } from '../terminal.ts'

/** Says where HTTP is served, and where its token is. */
export function introduceHttp ({ url, tokenFile }: NonNullable<ResultOf<'status'>['http']>, terminal: Terminal): void {
  terminal.line(`HTTP on ${url}`)
  terminal.line(`Bearer token in ${tokenFile}`)
  if (!isLoopback(new URL(url).hostname.replace(/^\[|\]$/g, '')))
    terminal.note('Others on the network can read the texts and the token of requests: put a proxy with TLS in front of it')
}
