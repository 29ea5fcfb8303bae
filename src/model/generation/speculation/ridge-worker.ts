// A thread that solves one ridge regression: seconds of arithmetic, during which the main thread goes on.
import { parentPort, workerData } from 'node:worker_threads'
import { solveRidge, type RidgeSums } from './ridge-solver.ts'

const { sums, ridge } = workerData as { sums: RidgeSums, ridge: number }
const solution = solveRidge(sums, ridge)
parentPort!.postMessage(solution, [solution.buffer])
