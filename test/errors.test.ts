import { ConnectionClosedError, StreamResetError } from '@libp2p/interface'
import { describe, expect, it } from 'vitest'
import { isRetryable, MidspanError, UsageError } from '../src/errors.ts'
import { UnreachableError } from '../src/node/network/dial.ts'
import { BusyError } from '../src/protocols/weights/messages.ts'
import {
  BadMessageError,
  ChannelClosedError,
  ChannelResetError,
  ChannelTimeoutError,
  FrameForgedError,
  FrameTruncatedError,
  HandshakeError
} from '../src/protocols/wire/errors.ts'
import { remoteErrorOf, failureOf } from '../src/protocols/wire/failure.ts'
import { NoServerError } from '../src/roles/client/sessions.ts'

const coded = (code: string): Error => Object.assign(new Error(code), { code })

describe('work that failed', () => {
  it.each<[string, unknown]>([
    ['a stream that was reset', new ChannelResetError()],
    ['a stream that libp2p reset', new ChannelResetError(new StreamResetError('reset'))],
    ['a stream that was reset for a peer\'s own reason', new ChannelResetError(new Error('too many connections'))],
    ['a session that was closed', new ChannelClosedError()],
    ['a silent peer', new ChannelTimeoutError('nothing was received', 1)],
    ['a stream that ended early', new FrameTruncatedError('in a frame')],
    ['a peer that is not there', new UnreachableError('the server')],
    ['a peer that cannot be dialled', new UnreachableError('the server', coded('ECONNREFUSED'))],
    ['no server', new NoServerError()],
    ['a server that is busy', new BusyError()],
    ['a server that stops', remoteErrorOf(failureOf(new MidspanError('E_STOPPING', 'the server is stopping')))],
    ['libp2p\'s word that a connection closed', new ConnectionClosedError('closed')],
    ['a socket that was reset', coded('ECONNRESET')],
    ['several addresses that did not answer', new AggregateError([coded('ETIMEDOUT'), coded('EHOSTUNREACH')])]
  ])('is tried again after %s', (_, error) => { expect(isRetryable(error)).toBe(true) })

  it.each<[string, unknown]>([
    ['a full disk', coded('ENOSPC')],
    ['a file that is not there', coded('ENOENT')],
    ['a defect', new ReferenceError('a name is not defined')],
    ['a defect in a type', new TypeError('undefined is not a function')],
    ['a defect that ended a stream', new ChannelResetError(new TypeError('undefined is not a function'))],
    ['a defect while dialling', new UnreachableError('the server', new ReferenceError('a name is not defined'))],
    ['an error that nobody knows', new Error('something failed')],
    ['something that is no error', 'something'],
    ['a bad message', new BadMessageError('what')],
    ['a forged frame', new FrameForgedError('a frame')],
    ['no agreement', new HandshakeError('why')],
    ['wrong usage', new UsageError('what')],
    ['a server\'s refusal', remoteErrorOf(failureOf(new MidspanError('E_NOT_ADMITTED', 'not admitted')))],
    ['a server\'s internal error', remoteErrorOf(failureOf(new TypeError('what')))],
    ['a server that claims anything else', remoteErrorOf(failureOf(new MidspanError('E_CACHE_FULL', 'full')))],
    ['a mixed failure', new AggregateError([coded('ETIMEDOUT'), new TypeError('what')])],
    [
      'a peer that does not speak the protocol',
      new UnreachableError('x', Object.assign(new Error('x'), { name: 'UnsupportedProtocolError' }))
    ]
  ])('is not tried again after %s', (_, error) => {
    expect(isRetryable(error)).toBe(false)
  })
})
