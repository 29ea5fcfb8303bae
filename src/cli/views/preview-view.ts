import type { EventOf, ProgressOf, ResultOf } from '../../api/operations.ts'
import { digits, plural } from '../format.ts'
import type { Terminal } from '../terminal.ts'

type ShownRecord = ProgressOf<'preview'>

/** What stands between two tokens, and around those that the loss counts: signs that texts hardly have. */
const BETWEEN = '│'
const COUNTED = ['⟦', '⟧'] as const
const WITHHELD = ['⟪', '⟫'] as const

/** Shows the tokens of records, with those that the loss counts between marks, or the events themselves as JSON. */
export class PreviewView {
  readonly #terminal: Terminal
  readonly #json: boolean

  constructor (terminal: Terminal, json: boolean) {
    this.#terminal = terminal
    this.#json = json
  }

  show (event: EventOf<'preview'>): void {
    if (this.#json) return this.#terminal.json(event)
    if (event.type === 'record') this.#record(event)
    else this.#done(event)
  }

  #record ({ file, line, tokens, countedTokens, notice }: ShownRecord): void {
    const place = `${file === undefined ? '' : `${file} `}line ${line}`
    this.#terminal.line(this.#terminal.bold(`${place}: ${plural(tokens.length, 'token')}, ${countedTokens} counted`))
    this.#terminal.line(markedText(tokens))
    if (notice !== undefined) this.#terminal.note(`${place} ${notice}`)
  }

  #done ({ packing, maxTokens, skipped, skippedLines, withheld }: ResultOf<'preview'>): void {
    for (const { file, line, reason } of skippedLines) this.#terminal.note(`${file === undefined ? '' : `${file} `}line ${line} ${reason}`)
    if (skipped > skippedLines.length) this.#terminal.note(`and ${skipped - skippedLines.length} more cannot be used`)
    if (withheld !== undefined)
      this.#terminal.note(
        `The rules withhold what stands between ${WITHHELD.join(' and ')}: ${withheld.withheldTokens} of the data's ${
          plural(withheld.tokens, 'token')
        }, ${digits(100 * withheld.withheldTokens / withheld.tokens)}%`
      )
    this.#terminal.note(
      `The loss counts what stands between ${COUNTED.join(' and ')}. ` + (packing === 'packed'
        ? `Training puts records one after another into sequences of ${maxTokens} tokens`
        : `Training has a record a sequence, of ${maxTokens} tokens at most`)
    )
  }
}

/** Writes tokens on one line, withheld ones between marks of their own. Control characters are written as JSON has them. */
export function markedText (tokens: ShownRecord['tokens']): string {
  let text = ''
  for (const [i, { text: own, counted, withheld = false }] of tokens.entries()) {
    const before = tokens[i - 1]?.counted ?? false
    if (before && !counted) text += COUNTED[1]
    else if (i > 0 && before === counted) text += BETWEEN
    if (counted && !before) text += COUNTED[0]
    text += withheld ? `${WITHHELD[0]}${escaped(own)}${WITHHELD[1]}` : escaped(own)
  }
  return tokens.at(-1)?.counted === true ? text + COUNTED[1] : text
}

/** Characters that would steer a terminal or break the line. */
const STEERING = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu

function escaped (text: string): string {
  return text.replace(STEERING, (character) => {
    const json = JSON.stringify(character).slice(1, -1)
    return json === character ? `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}` : json
  })
}
