import { homeAt } from '../../../src/node/home/home.ts'
import { lockHome } from '../../../src/node/home/lock.ts'

await lockHome(homeAt(process.argv[2] ?? ''))
process.send?.('locked')
setInterval(() => {}, 60_000)
