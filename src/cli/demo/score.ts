import { answer, type Clinic, type Fact } from './corpus.ts'

/** Right answers to the questions of a clinic's own facts, and of everybody else's. */
export interface Score {
  readonly own: number
  readonly ownTotal: number
  readonly others: number
  readonly othersTotal: number
}

/** Returns all facts, clinic by clinic: the questions of the demo, in this order. */
export function allFacts (clinics: readonly Clinic[]): Fact[] {
  return clinics.flatMap(({ facts }) => facts)
}

/** Counts answers, to all facts in order, that are exactly right. `own` is the clinic that answers. */
export function scoreOf (clinics: readonly Clinic[], own: number, answers: readonly string[]): Score {
  const score = { own: 0, ownTotal: 0, others: 0, othersTotal: 0 }
  const owners = clinics.flatMap(({ facts }, clinic) => facts.map(() => clinic))
  for (const [i, { remedy }] of allFacts(clinics).entries()) {
    const side = owners[i] === own ? 'own' : 'others'
    score[`${side}Total`]++
    if (answers[i] === answer(remedy)) score[side]++
  }
  return score
}
