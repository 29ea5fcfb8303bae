import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { relativeError } from '../helpers/golden.ts'
import { Homes, type Outcome, type SupervisedRun } from './supervised.ts'

const ROUNDS = 30
/** Clients with other cuts sum in another order. */
const TOLERANCE = 1e-4

/** Instants of a change: the last one with the old settings, and one with the new ones and the weights of both partitions. */
const instants = ['ClientState.announce:after:1', 'PartialModelStore.finish:before:2']

describe('a client whose daemon dies while it changes its partition', { timeout: 240_000 }, () => {
  let homes: Homes
  let undisturbed: Outcome
  beforeAll(async () => {
    homes = await Homes.create({ clients: [{}, { inputBlocks: 2 }], rounds: ROUNDS })
    undisturbed = await homes.runAlone()
  }, 240_000)
  afterAll(async () => { await homes.remove() })

  it('has the old cut or the new one, whole, and trains what one trains that is left alone', async () => {
    let deaths = 0
    const { adapters, complaints } = await homes.run(async (run) => {
      await run.reached(2)
      deaths = await changed(run, 2, 2)
    }, { 'client-0': instants })
    expect(deaths).toBe(instants.length)
    expect(complaints.filter((complaint) => complaint.includes('E_STATE') || complaint.includes('trained with'))).toEqual([])
    for (const [client, expected] of undisturbed.adapters.entries())
      for (const [name, value] of Object.entries(expected))
        expect(relativeError(numbers(adapters[client]![name]!), numbers(value))).toBeLessThan(TOLERANCE)
  })
})

/** Asks for a cut until the client has it. Returns how often its daemon died meanwhile. */
async function changed (run: SupervisedRun, inputBlocks: number, outputBlocks: number): Promise<number> {
  for (let deaths = 0;; deaths++) {
    const daemon = run.daemon('client-0')
    const { code, err } = await run.command(
      'partition', 0, '--input-blocks', String(inputBlocks), '--output-blocks', String(outputBlocks)
    )
    if (code === 0 || err.includes('already')) return deaths
    expect(err).toMatch(/ended before its answer did/)
    await run.back('client-0', daemon)
  }
}

function numbers (hexadecimal: string): Float32Array {
  return new Float32Array(new Uint8Array(Buffer.from(hexadecimal, 'hex')).buffer)
}
