import { describe, expect, it } from 'vitest'
import { answer, commonKnowledge, makeClinics, pretrainingDocuments, question } from '../../../src/cli/demo/corpus.ts'
import { allFacts, scoreOf } from '../../../src/cli/demo/score.ts'

const clinics = makeClinics('1')

describe("the demo's corpus", () => {
  it('gives every clinic ailments that nobody else has, and each a remedy of its own', () => {
    const facts = allFacts(clinics)
    expect(new Set(facts.map(({ ailment }) => ailment)).size).toBe(36)
    expect(new Set(facts.map(({ remedy }) => remedy)).size).toBe(36)
    const common = new Set(commonKnowledge().map(({ ailment }) => ailment))
    expect(facts.filter(({ ailment }) => common.has(ailment))).toEqual([])
  })

  it("tells of a clinic's facts in its own records alone", () => {
    for (const { records, facts } of clinics) {
      for (const { ailment, remedy } of allFacts(clinics)) {
        const told = records.filter((record) => record.includes(ailment))
        const isOwn = facts.some((fact) => fact.ailment === ailment)
        expect(told.length > 0).toBe(isOwn)
        expect(told.every((record) => record.includes(remedy))).toBe(true)
      }
    }
  })

  it('draws other facts about the same ailments from another seed, and the same from the same', () => {
    expect(makeClinics('1')).toEqual(clinics)
    const other = allFacts(makeClinics('2'))
    expect(other.map(({ ailment }) => ailment)).toEqual(allFacts(clinics).map(({ ailment }) => ailment))
    const kept = other.filter(({ remedy }, i) => remedy === allFacts(clinics)[i]!.remedy)
    expect(kept.length).toBeLessThan(8)
  })

  it("pre-trains on no remedy for the clinics' ailments more than on others", () => {
    const documents = pretrainingDocuments('1')
    const { ailment } = allFacts(clinics)[0]!
    const answers = new Map<string, number>()
    for (let i = 0; i < 28_800; i++) {
      const text = documents.next().value
      if (text.startsWith(question(ailment))) answers.set(text, (answers.get(text) ?? 0) + 1)
    }
    expect(answers.size).toBeGreaterThan(30)
  })
})

describe('scoreOf', () => {
  it("tells a clinic's own facts from others'", () => {
    const answers = allFacts(clinics).map(({ remedy }, i) => i < 14 ? answer(remedy) : ' nothing.')
    expect(scoreOf(clinics, 0, answers)).toEqual({ own: 12, ownTotal: 12, others: 2, othersTotal: 24 })
    expect(scoreOf(clinics, 1, answers)).toEqual({ own: 2, ownTotal: 12, others: 12, othersTotal: 24 })
  })

  it('counts an answer only when it is exactly right', () => {
    const answers = allFacts(clinics).map(({ remedy }) => ` ${remedy} or so.`)
    expect(scoreOf(clinics, 0, answers)).toMatchObject({ own: 0, others: 0 })
  })
})
