export * from './fetch.ts'
export { BusyError, NotServedError, type PieceKind } from './messages.ts'
export * from './service.ts'
