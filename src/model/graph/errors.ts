import { MidspanError } from '../../errors.ts'

/** Thrown when a graph is built from operands that do not fit, or differentiated where there is no derivative. */
export class GraphError extends MidspanError {
  constructor (message: string, next: string) {
    super('E_GRAPH', message, { next })
  }
}
