/**
 * Words whose stem the rules would miss, as NLTK's stemmer lists them.
 * Porter, "An algorithm for suffix stripping" (1980), with the departures that NLTK's PorterStemmer makes by default: ROUGE is computed
 * with that one.
 */
const IRREGULAR: ReadonlyMap<string, string> = new Map([
  ['sky', 'sky'], ['skies', 'sky'], ['dying', 'die'], ['lying', 'lie'], ['tying', 'tie'], ['news', 'news'], ['innings', 'inning'],
  ['inning', 'inning'], ['outings', 'outing'], ['outing', 'outing'], ['cannings', 'canning'], ['canning', 'canning'], ['howe', 'howe'],
  ['proceed', 'proceed'], ['exceed', 'exceed'], ['succeed', 'succeed']
])

/** A suffix, what stands in its place, and what has to hold of the stem before it. */
type Rule = readonly [suffix: string, replacement: string, condition?: (stem: string) => boolean]

/** Returns the stem of a word in lower case. */
export function porterStem (word: string): string {
  const irregular = IRREGULAR.get(word)
  if (irregular !== undefined) return irregular
  if (word.length <= 2) return word
  return [plurals, pastAndProgressive, finalY, doubleSuffixes, adjectives, singleSuffixes, finalE, finalDoubleL]
    .reduce((stem, step) => step(stem), word)
}

function isConsonant (word: string, i: number): boolean {
  const letter = word[i]!
  if ('aeiou'.includes(letter)) return false
  return letter !== 'y' || i === 0 || !isConsonant(word, i - 1)
}

/** Counts the runs of vowels that a consonant follows: the m of [C](VC){m}[V]. */
function measure (stem: string): number {
  let count = 0
  for (let i = 1; i < stem.length; i++) if (!isConsonant(stem, i - 1) && isConsonant(stem, i)) count++
  return count
}

function hasMeasure (stem: string): boolean {
  return measure(stem) > 0
}

function hasGreatMeasure (stem: string): boolean {
  return measure(stem) > 1
}

function hasVowel (stem: string): boolean {
  return Array.from(stem).some((_, i) => !isConsonant(stem, i))
}

function endsInDoubleConsonant (word: string): boolean {
  return word.length >= 2 && word.at(-1) === word.at(-2) && isConsonant(word, word.length - 1)
}

/** Whether a word ends in consonant, vowel, consonant, the last of them none of w, x and y; or is a vowel with a consonant. */
function endsShort (word: string): boolean {
  const end = word.length - 1
  if (word.length === 2) return !isConsonant(word, 0) && isConsonant(word, 1)
  return word.length >= 3 && isConsonant(word, end - 2) && !isConsonant(word, end - 1) && isConsonant(word, end) && !'wxy'.includes(word[end]!)
}

/** Applies the first rule whose suffix a word has. Where the rule's condition does not hold, the word stays as it is. */
function applied (word: string, rules: readonly Rule[]): string {
  for (const [suffix, replacement, condition = () => true] of rules) {
    if (!word.endsWith(suffix)) continue
    const stem = word.slice(0, word.length - suffix.length)
    return condition(stem) ? stem + replacement : word
  }
  return word
}

function plurals (word: string): string {
  if (word.endsWith('ies') && word.length === 4) return word.slice(0, -1)
  return applied(word, [['sses', 'ss'], ['ies', 'i'], ['ss', 'ss'], ['s', '']])
}

function pastAndProgressive (word: string): string {
  if (word.endsWith('ied')) return word.slice(0, word.length === 4 ? -1 : -2)
  if (word.endsWith('eed')) return applied(word, [['eed', 'ee', hasMeasure]])
  const stem = ['ed', 'ing'].filter((suffix) => word.endsWith(suffix)).map((suffix) => word.slice(0, -suffix.length)).find(hasVowel)
  if (stem === undefined) return word
  for (const suffix of ['at', 'bl', 'iz']) if (stem.endsWith(suffix)) return `${stem}e`
  if (endsInDoubleConsonant(stem)) return 'lsz'.includes(stem.at(-1)!) ? stem : stem.slice(0, -1)
  return measure(stem) === 1 && endsShort(stem) ? `${stem}e` : stem
}

function finalY (word: string): string {
  return applied(word, [['y', 'i', (stem) => stem.length > 1 && isConsonant(stem, stem.length - 1)]])
}

function doubleSuffixes (word: string): string {
  if (word.endsWith('alli') && hasMeasure(word.slice(0, -4))) return doubleSuffixes(word.slice(0, -2))
  return applied(word, [
    ['ational', 'ate', hasMeasure], ['tional', 'tion', hasMeasure], ['enci', 'ence', hasMeasure], ['anci', 'ance', hasMeasure],
    ['izer', 'ize', hasMeasure], ['bli', 'ble', hasMeasure], ['alli', 'al', hasMeasure], ['entli', 'ent', hasMeasure],
    ['eli', 'e', hasMeasure], ['ousli', 'ous', hasMeasure], ['ization', 'ize', hasMeasure], ['ation', 'ate', hasMeasure],
    ['ator', 'ate', hasMeasure], ['alism', 'al', hasMeasure], ['iveness', 'ive', hasMeasure], ['fulness', 'ful', hasMeasure],
    ['ousness', 'ous', hasMeasure], ['aliti', 'al', hasMeasure], ['iviti', 'ive', hasMeasure], ['biliti', 'ble', hasMeasure],
    ['fulli', 'ful', hasMeasure], ['logi', 'log', (stem) => hasMeasure(`${stem}l`)]
  ])
}

function adjectives (word: string): string {
  return applied(word, [
    ['icate', 'ic', hasMeasure], ['ative', '', hasMeasure], ['alize', 'al', hasMeasure], ['iciti', 'ic', hasMeasure],
    ['ical', 'ic', hasMeasure], ['ful', '', hasMeasure], ['ness', '', hasMeasure]
  ])
}

function singleSuffixes (word: string): string {
  const removed = (suffix: string): Rule => [suffix, '', hasGreatMeasure]
  return applied(word, [
    ...['al', 'ance', 'ence', 'er', 'ic', 'able', 'ible', 'ant', 'ement', 'ment', 'ent'].map(removed),
    ['ion', '', (stem) => hasGreatMeasure(stem) && 'st'.includes(stem.at(-1)!)],
    ...['ou', 'ism', 'ate', 'iti', 'ous', 'ive', 'ize'].map(removed)
  ])
}

function finalE (word: string): string {
  return applied(word, [['e', '', (stem) => hasGreatMeasure(stem) || (measure(stem) === 1 && !endsShort(stem))]])
}

function finalDoubleL (word: string): string {
  return applied(word, [['ll', 'l', () => hasGreatMeasure(word.slice(0, -1))]])
}
