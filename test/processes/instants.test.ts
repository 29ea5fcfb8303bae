import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { Homes, type Deaths, type Outcome } from './supervised.ts'

const ROUNDS = 12

/** The server after a step that is not durable, and after one that is durable and untold. */
const serverDeaths = ['FederatedAdapters.step:after:3', 'TrainingState.commit:after:3']

/** Clients whose ends are shared: with a contribution that is not sent, and with a step of the federation's that is not durable. */
const sharedDeaths: Deaths = {
  server: serverDeaths,
  'client-0': ['ClientState.download:after:2'],
  'client-1': ['ClientState.step:after:5']
}

/** Clients with ends of their own: with a step that is prepared and not handed in, and with one that counted without their knowing. */
const ownDeaths: Deaths = {
  server: serverDeaths,
  'client-0': ['ClientState.prepare:after:3'],
  'client-1': ['ClientState.promote:before:6']
}

/**
 * Where all are clipped together: the server with a coefficient that nobody was told, and with a step as above, clients with a norm that is
 * not told, with a step prepared by the coefficient and not handed in, and with one that counted without their knowing.
 */
const clippedDeaths: Deaths = {
  server: ['FederatedAdapters.clippingCoefficient:after:3', ...serverDeaths],
  'client-0': ['ClientState.norm:after:2', 'ClientState.prepare:after:3'],
  'client-1': ['ClientState.promote:before:6']
}
const clippedTogether: Partial<CreateOptions> = { maxGradientNorm: 0.05, gradientNormScope: 'global' }

/** Between the two files of a snapshot, and then in the second pass of a round, on every side. */
const diskAndPassDeaths: Deaths = {
  server: ['rename:after:3', 'Middle.forward:after:7'],
  'client-0': ['rename:after:5', 'ClientRound.forward:after:4'],
  'client-1': ['rename:before:8', 'ClientRound.learn:after:4']
}

const federations: ReadonlyArray<readonly [string, Partial<CreateOptions>, Deaths]> = [
  ['ends averaged every third round', { ends: { mode: 'average', every: 3 } }, ownDeaths],
  ['personal ends that are clipped together', { ends: { mode: 'personal' }, ...clippedTogether }, clippedDeaths],
  ['shared ends and two passes a round', { accumulate: 2 }, diskAndPassDeaths],
  ['clients in turn', { strategy: 'sequential' }, sharedDeaths]
]

describe.each(federations)('a run with %s whose processes die at the worst instants', { timeout: 240_000 }, (_, charter, deaths) => {
  let homes: Homes
  let undisturbed: Outcome
  beforeAll(async () => {
    homes = await Homes.create({ charter, clients: [{}, { inputBlocks: 2 }], rounds: ROUNDS })
    undisturbed = await homes.runAlone()
  }, 240_000)
  afterAll(async () => { await homes.remove() })

  it('ends with the same parameters, to the last bit, as one that is left alone', async () => {
    const { adapters } = await homes.run(async () => {}, deaths)
    expect(adapters).toEqual(undisturbed.adapters)
  })
})
