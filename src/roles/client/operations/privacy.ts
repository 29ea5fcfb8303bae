import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import type { ExposureFigure } from '../../../api/privacy.ts'
import { epsilonOf, muSquaredOfRow } from '../../../model/privacy/accountant.ts'
import type { Exposure, Purpose } from '../../../model/privacy/ledger.ts'
import { protectionOf } from '../../charter-settings.ts'
import type { Client } from '../client.ts'
import { finite } from './finite.ts'

/** What the figures of each purpose protect. */
const UNITS: Readonly<Record<Purpose, Readonly<Record<'worst' | 'everywhere', string>>>> = {
  train: {
    worst: 'one record of the data of one run, in all of its passes',
    everywhere: 'one record that was in the data of every run'
  },
  evaluate: {
    worst: 'one record of the data of one evaluation',
    everywhere: 'one record that was in the data of every evaluation'
  },
  generate: {
    worst: 'one text, the prompt with what was generated',
    everywhere: 'all texts together, as if they were one'
  }
}

const ROW_UNIT = 'one row in one release, the rows around it left as they are'
const TOTAL_UNIT = 'everything that this client ever released, as if it were one record'

const NOT_COVERED: readonly string[] = [
  'what adapters learn of a record and later releases of other records show: the figures take the weights of each release as given',
  "what is contributed of this client's own blocks: with shared ends gradients, with averaged ones values, both exact",
  'lengths, numbers of counted tokens, times, and with one gradient norm for all that norm: records are replaced by records of the same length',
  'what the exported adapter tells whoever holds it',
  'what was released before the ledger began, or by a client whose ledger was removed',
  'releases of the last second before a power cut; a process that is killed loses none'
]

/** Tells what left this client, and what the noise on it is worth. */
export async function * privacy (
  { context, ledger, runtime: { model } }: Client,
  { delta }: ParametersOf<'privacy'>
): AsyncGenerator<EventOf<'privacy'>> {
  const hidden = model.hiddenSize
  const figure = (unit: string, { muSquared, bareRows }: Exposure): ExposureFigure => {
    const mu = Math.sqrt(muSquared)
    const isGuaranteed = bareRows === 0
    return {
      unit,
      mu: isGuaranteed ? finite(mu) : null,
      epsilon: isGuaranteed ? finite(epsilonOf(mu, delta)) : null,
      rowsWithoutNoise: bareRows
    }
  }
  const { groups, purposes, total, unreadable } = ledger.counted
  yield await Promise.resolve({
    hidden,
    delta,
    protection: protectionOf(context.charter, context.client),
    releases: groups.map((group) => {
      const isBare = group.clip === null || group.noise === 0
      const row = isBare ? { muSquared: 0, bareRows: 1 } : { muSquared: muSquaredOfRow(group.noise, hidden), bareRows: 0 }
      return { ...group, row: figure(ROW_UNIT, row) }
    }),
    purposes: purposes.map(({ purpose, works, worst, everywhere }) => ({
      purpose, works, worst: figure(UNITS[purpose].worst, worst), everywhere: figure(UNITS[purpose].everywhere, everywhere)
    })),
    total: figure(TOTAL_UNIT, total),
    lostEntries: unreadable,
    notCovered: NOT_COVERED
  })
}
