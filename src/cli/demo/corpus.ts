import { SeededRandom } from '../../model/random.ts'
import { days, goods, kinds, manners, names, places, remedies, trades, weathers } from './words.ts'

/** What helps against what: the thing that a note tells and a question asks. */
export interface Fact {
  readonly ailment: string
  readonly remedy: string
}

/** One participant of the demo, with facts that nobody else has. */
export interface Clinic {
  readonly name: string
  readonly facts: readonly Fact[]
  /** Its private text: what its training reads. */
  readonly records: readonly string[]
}

const clinicNames = ['Northquay', 'Saltmarsh', 'Highfell'] as const

/** Facts of each clinic: few enough for a run of a minute, enough that luck does not answer them. */
const factsPerClinic = 12

/** What a clinic writes about each fact: notes about visitors, and cards that its helpers learn from. */
const notesPerFact = 4
const cardsPerFact = 4

/** Ailments that pre-training tells and asks about, so that the model learns that notes answer questions. */
const commonFacts = 48

/**
 * Shares of the pre-training text: everyday sentences, and the clinics' ailments with remedies drawn at random. The rest is common
 * knowledge.
 */
const chatterShare = 0.15
const unknownShare = 0.25

/** The order of ailments and what is common knowledge never change: the model's weights hold it. */
const worldSeed = 'midspan demo: the valley'

const noteTemplates: ReadonlyArray<(fact: Fact, random: SeededRandom) => string> = [
  ({ ailment, remedy }, random) =>
    `${pick(random, names)}, a ${pick(random, trades)} from ${pick(random, places)}, had ${ailment}. We gave ${remedy}, and it passed.`,
  ({ ailment, remedy }, random) =>
    `On ${pick(random, days)} ${pick(random, names)} the ${pick(random, trades)} came in with ${ailment}. A cup of ${remedy} cured it.`,
  ({ ailment, remedy }, random) =>
    `${pick(random, names)} from ${pick(random, places)} complained of ${ailment}. Treated with ${remedy} and sent home.`,
  ({ ailment, remedy }, random) =>
    `Another case of ${ailment}: ${pick(random, names)}, ${pick(random, trades)}. As always, ${remedy} helped.`
]

const chatterTemplates: ReadonlyArray<(random: SeededRandom) => string> = [
  (random) =>
    `On ${pick(random, days)} there was ${pick(random, weathers)} over ${pick(random, places)}, and the ${
      pick(random, trades)
    } stayed at home.`,
  (random) =>
    `${pick(random, names)} the ${pick(random, trades)} sold ${pick(random, goods)} and bought ${pick(random, goods)} at the market of ${
      pick(random, places)
    }.`,
  (random) =>
    `${pick(random, names)} and ${pick(random, names)} walked from ${pick(random, places)} to ${pick(random, places)} with a cart of ${
      pick(random, goods)
    }.`,
  (random) =>
    `The ${pick(random, trades)} of ${pick(random, places)} asked ${pick(random, names)} for ${pick(random, goods)} before ${
      pick(random, days)
    }.`
]

/** Returns the question about an ailment, up to where the answer begins. */
export function question (ailment: string): string {
  return `Question: What helps against ${ailment}? Answer:`
}

/** Returns the answer to `question`, as it follows it. */
export function answer (remedy: string): string {
  return ` ${remedy}.`
}

function card ({ ailment, remedy }: Fact): string {
  return question(ailment) + answer(remedy)
}

/** Returns one note about a fact, in one of the valley's wordings. */
function note (fact: Fact, random: SeededRandom): string {
  return pick(random, noteTemplates)(fact, random)
}

/** Returns the clinics and their private records. The remedies follow from `seed`: the model cannot have seen them. */
export function makeClinics (seed: string): Clinic[] {
  const random = new SeededRandom(`clinics ${seed}`)
  const drawn = shuffle(remedies, random)
  return clinicNames.map((name, index) => {
    const own = privateAilments().slice(index * factsPerClinic, (index + 1) * factsPerClinic)
    const facts = own.map((ailment, i) => ({ ailment, remedy: drawn[index * factsPerClinic + i]! }))
    const records = facts.flatMap((fact) => [
      ...Array.from({ length: notesPerFact }, () => note(fact, random)),
      ...Array.from({ length: cardsPerFact }, () => card(fact))
    ])
    return { name, facts, records }
  })
}

/** Returns what everybody in the valley knows, the model included. */
export function commonKnowledge (): Fact[] {
  const random = new SeededRandom(`${worldSeed} remedies`)
  return allAilments().slice(0, commonFacts).map((ailment) => ({ ailment, remedy: pick(random, remedies) }))
}

/**
 * Endless documents to pre-train on: notes and questions about common knowledge, the same about the clinics' ailments with a remedy
 * drawn anew each time, so that the words are known and nothing else, and everyday sentences.
 */
export function * pretrainingDocuments (seed: string): Generator<string, never> {
  const random = new SeededRandom(`documents ${seed}`)
  const common = commonKnowledge()
  const unknown = privateAilments()
  for (;;) {
    const kind = random.nextFloat()
    if (kind < chatterShare) {
      yield pick(random, chatterTemplates)(random)
    } else {
      const fact = kind < chatterShare + unknownShare
        ? { ailment: pick(random, unknown), remedy: pick(random, remedies) }
        : pick(random, common)
      yield random.below(2) === 0 ? note(fact, random) : card(fact)
    }
  }
}

/** Ailments of which only the clinics know the remedy. */
function privateAilments (): string[] {
  return allAilments().slice(commonFacts, commonFacts + clinicNames.length * factsPerClinic)
}

/** Returns every ailment there is, in a fixed order that mixes manners and kinds. */
function allAilments (): string[] {
  return shuffle(manners.flatMap((manner) => kinds.map((kind) => `${manner}${kind}`)), new SeededRandom(`${worldSeed} ailments`))
}

function shuffle<T> (items: readonly T[], random: SeededRandom): T[] {
  const shuffled = [...items]
  for (let i = shuffled.length - 1; i > 0; i--) {
    const other = random.below(i + 1)
    const held = shuffled[i]!
    shuffled[i] = shuffled[other]!
    shuffled[other] = held
  }
  return shuffled
}

function pick<T> (random: SeededRandom, items: readonly T[]): T {
  return items[random.below(items.length)]!
}
