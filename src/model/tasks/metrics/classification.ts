/** Numbers of classes, record by record: what each was taken for, and what it is. -1 is a prediction that is none of the classes. */
export interface Classified {
  readonly predicted: Int32Array
  readonly actual: Int32Array
  /** The number of classes. */
  readonly classes: number
}

/** Numbers the classes of some predictions. Predictions outside of `known` are wrong, and no class of their own. */
export function classified (predictions: readonly string[], references: readonly string[], known?: readonly string[]): Classified {
  const numbers = new Map<string, number>()
  const numbered = (label: string): number => {
    const number = numbers.get(label) ?? numbers.size
    numbers.set(label, number)
    return number
  }
  for (const label of known ?? []) numbered(label)
  const actual = Int32Array.from(references, numbered)
  const isOpen = known === undefined
  const predicted = Int32Array.from(predictions, (label) => isOpen ? numbered(label) : numbers.get(label) ?? -1)
  return { predicted, actual, classes: numbers.size }
}

/**
 * Computes the mean of the classes' F1 over some records: of the classes that one of them has, or was taken for, as scikit-learn's
 * f1_score(average='macro') does.
 */
export function macroF1 ({ predicted, actual, classes }: Classified, records: ArrayLike<number>): number {
  const [right, taken, present] = [new Uint32Array(classes), new Uint32Array(classes), new Uint32Array(classes)]
  for (let i = 0; i < records.length; i++) {
    const [guess, truth] = [predicted[records[i]!]!, actual[records[i]!]!]
    present[truth]!++
    if (guess >= 0) taken[guess]!++
    if (guess === truth) right[truth]!++
  }
  let [sum, count] = [0, 0]
  for (let c = 0; c < classes; c++) {
    const total = taken[c]! + present[c]!
    if (total === 0) continue
    sum += 2 * right[c]! / total
    count++
  }
  return count === 0 ? 0 : sum / count
}
