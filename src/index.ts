export { createFederation } from './node/federation/create.ts'
export { joinFederation } from './node/federation/join.ts'
export { startDaemon } from './node/daemon/daemon.ts'
