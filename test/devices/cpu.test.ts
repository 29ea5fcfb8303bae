import { deviceSuite } from './suite.ts'

deviceSuite('cpu', { block: 2e-6, hidden: 1e-5, gradient: 2e-5, steps: 1e-4 }, { block: 2e-3, hidden: 3e-3, gradient: 5e-3, steps: 1e-2 }, {
  threads: 1
})
