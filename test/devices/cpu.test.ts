import { deviceSuite } from './suite.ts'

deviceSuite('cpu', { block: 2e-6, hidden: 1e-5, gradient: 2e-5, steps: 1e-4 }, { threads: 1 })
