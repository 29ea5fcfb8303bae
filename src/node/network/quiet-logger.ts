import type { ComponentLogger, Logger } from '@libp2p/interface'

const silent: Logger = Object.assign(() => {}, { error: () => {}, trace: () => {}, enabled: false, newScope: () => silent })

/**
 * A logger that writes nothing. libp2p's own makes three objects for every connection and stream, which asks the terminal for its colours
 * each time, whether or not anything is to be written.
 */
export const quietLogger: ComponentLogger = { forComponent: () => silent }
