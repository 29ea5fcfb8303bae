export * from './fetch.ts'
export * from './service.ts'
