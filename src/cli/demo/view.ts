import type { ResultOf } from '../../api/operations.ts'
import type { PeerLine } from '../../api/peers.ts'
import { bytes, digits, endSpans, plural, seconds, table } from '../format.ts'
import type { Terminal } from '../terminal.ts'
import { bar, ProgressLine } from '../views/progress-line.ts'
import type { TrainRound } from '../views/train-view.ts'
import { question, type Clinic } from './corpus.ts'
import type { Asked, DemoFederation, Noise } from './federation.ts'
import type { LocalResults, NetworkResults, Sample } from './results.ts'
import { allFacts, scoreOf, type Score } from './score.ts'

const barColumns = 24

/** Where progress cannot be redrawn, a line this often shows that there is some. */
const roundsPerLine = 10

/** Digits of a peer id that tell the demo's peers apart: all of them begin alike. */
const shownIdDigits = 8

/** What the demo prints. */
export class DemoView {
  readonly #terminal: Terminal
  readonly #progress: ProgressLine
  readonly #startedAt = performance.now()
  #rounds = 0
  #clinics = 0
  /** Each clinic's last round. */
  readonly #last = new Map<number, TrainRound>()

  constructor (terminal: Terminal) {
    this.#terminal = terminal
    this.#progress = new ProgressLine(terminal)
  }

  opening (clinics: readonly Clinic[], { hidden, gradient }: Noise): void {
    const [first] = clinics
    this.#clinics = clinics.length
    this.#heading('Three clinics in one valley')
    this.#text(
      `Each clinic has ${first!.facts.length} ailments that the others have never seen, and ${
        first!.records.length
      } records about them that it may not show.
Three servers carry the middle of a small language model: one the first half, and two the second half each. The model knows the words,
but none of these ailments' remedies. Servers and clinics are six processes of ${'`midspan daemon`'}, on sockets of this machine. Noise on
what leaves a clinic:
${digits(hidden)} on hidden states, ${digits(gradient)} on gradients (a row's expected noise norm, over the norm that rows are clipped to).`
    )
    this.#text(`A record of ${first!.name}: "${first!.records[0]!}"`)
    this.#working('Founding the federation; the clinics join')
  }

  members ({ servers, members }: DemoFederation, peers: readonly PeerLine[]): void {
    this.#progress.clear()
    this.#heading('Who joined')
    const roundTrip = (peerId: string): string => {
      const ms = peers.find((peer) => peer.peerId === peerId)?.roundTripMs
      return ms === undefined || ms === null ? '' : `${digits(ms)} ms away`
    }
    this.#table([
      ...servers.servers.map(({ peerId, blocks, isCoordinator }) => [
        isCoordinator ? 'founder' : 'server',
        shortId(peerId),
        blocks === null ? '' : `serves blocks ${blocks.first} to ${blocks.end - 1}`,
        'has no text',
        ''
      ]),
      ...members.map((
        { clinic, peerId, partition, fileBytes }
      ) => [clinic.name, shortId(peerId), `keeps ${endSpans(partition)}`, `has ${bytes(fileBytes)} of text`, roundTrip(peerId)])
    ])
  }

  asking (questions: number): void {
    this.#working(`Asking every clinic all ${questions} questions, through the network`)
  }

  before (clinics: readonly Clinic[], asked: readonly Asked[]): void {
    this.#progress.clear()
    this.#heading('Before training')
    const facts = allFacts(clinics)
    const right = clinics.map((_, clinic) => scoreOf(clinics, clinic, asked[clinic]!.answers))
    this.#text(
      `Asked all ${facts.length} questions, ${
        clinics.map(({ name }, i) => `${name} gets ${right[i]!.own + right[i]!.others} right`).join(', ')
      }. A right answer is luck here.`
    )
    this.#exchange(clinics[0]!.name, facts[0]!.ailment, asked[0]!.answers[0]!)
  }

  training (rounds: number): void {
    this.#heading('Training together')
    this.#rounds = rounds
  }

  round (member: number, round: TrainRound): void {
    this.#last.set(member, round)
    if (this.#last.size < this.#clinics) return
    const last = [...this.#last].sort(([a], [b]) => a - b).map(([, event]) => event)
    const done = Math.min(...last.map((event) => event.done))
    const losses = last.map(({ loss }) => loss?.toFixed(2) ?? '?').join(' · ')
    const speed = sum(last.map(({ tokensPerSecond }) => tokensPerSecond))
    const line = `round ${done}/${this.#rounds}, ${plural(round.members, 'client')}, losses ${losses}, ${digits(speed)} tokens/s`
    this.#progress.draw(`${bar(done / this.#rounds, barColumns)} ${line}`)
    const isOver = last.every((event) => event.done === done)
    if (!this.#terminal.interactive && isOver && (done === 1 || done % roundsPerLine === 0)) this.#terminal.line(`  ${line}`)
  }

  trained (done: ReadonlyArray<ResultOf<'train'>>): void {
    this.#progress.clear()
    this.#text(
      `${plural(this.#rounds, 'round')} in ${
        seconds(Math.max(...done.map((event) => event.seconds)))
      }. Every round was one step of the shared middle, on the sum of all clinics' gradients.`
    )
  }

  comparing (what: string): void {
    this.#working(`For comparison, training without a network: ${what}`)
  }

  comparison (clinics: readonly Clinic[], { before, after }: NetworkResults, { alone, centralised }: LocalResults): void {
    this.#progress.clear()
    this.#heading('What each clinic can answer')
    const columns = (clinic: number): Score[] =>
      [before[clinic]!.answers, alone[clinic]!, after[clinic]!.answers, centralised].map((answers) => scoreOf(clinics, clinic, answers))
    const rows = clinics.map((
      { name },
      clinic
    ) => [name, ...columns(clinic).flatMap((score) => [`${score.own}/${score.ownTotal}`, `${score.others}/${score.othersTotal}`])])
    this.#table([
      ['', 'before', '', 'alone', '', 'federated', '', 'one machine', ''],
      ['', ...['own', 'others’', 'own', 'others’', 'own', 'others’', 'own', 'others’']],
      ...rows
    ])
    this.#text(`own: about the clinic's own ailments; others’: about those that only other clinics' records tell of.
before and federated: answered through the network. alone: trained on its own records only. one machine: trained on everybody's records
in one place, without noise: what the clinics may not do, and what the federation should equal.`)
    const example = learntFromOthers(clinics, before[0]!, after[0]!)
    if (example === undefined) return
    this.#text(`${clinics[0]!.name} has no record of ${example.ailment}: only ${example.owner} has. Asked at ${clinics[0]!.name}:`)
    this.#exchange('before', example.ailment, before[0]!.answers[example.index]!)
    this.#exchange('alone', example.ailment, alone[0]![example.index]!)
    this.#exchange('federated', example.ailment, after[0]!.answers[example.index]!)
  }

  sample ([first]: readonly Clinic[], prompt: string, { undisturbed, survived, killed }: Sample): void {
    const { text, tokens, tokensPerSecond, route } = undisturbed
    this.#heading('A sample, generated across the network')
    this.#text(`${this.#terminal.bold(prompt)}${text}`)
    this.#text(
      `${plural(tokens, 'token')} at ${digits(tokensPerSecond)} tokens/s: the first and last blocks at ${
        first!.name
      }, the middle on ${
        route.map(({ server, blocks }) => `${shortId(server)} (blocks ${blocks.first} to ${blocks.end - 1})`).join(' and ')
      }.`
    )
    const replayed = survived.route.filter(({ replayedTokens }) => replayedTokens > 0)
    const sent = replayed.map(({ server, replayedTokens }) => `${shortId(server)} got ${replayedTokens} released states again`)
    this.#text(
      `Generated once more, while server ${shortId(killed)} was killed: ${
        survived.text === text ? 'the same text to the last token' : 'ANOTHER TEXT, which is a fault'
      }${sent.length === 0 ? '' : `; ${sent.join(', ')}, none of them drawn anew`}.`
    )
  }

  traffic ({ members }: DemoFederation, { before, trained, after }: NetworkResults, noise: Noise): void {
    this.#heading('Who saw what')
    const asked = (member: number): { sent: number, received: number } => ({
      sent: before[member]!.sentBytes + after[member]!.sentBytes, received: before[member]!.receivedBytes + after[member]!.receivedBytes
    })
    this.#table([
      ['', 'own text', 'sent in training', 'received', 'sent in answers', 'received'],
      ...members.map((
        { clinic, fileBytes },
        i
      ) => [
        clinic.name,
        bytes(fileBytes),
        bytes(trained[i]!.sentBytes),
        bytes(trained[i]!.receivedBytes),
        bytes(asked(i).sent),
        bytes(asked(i).received)
      ]),
      [
        'servers',
        '0 B',
        ...[
          trained.map((done) => done.receivedBytes),
          trained.map((done) => done.sentBytes),
          before.map((_, i) => asked(i).received),
          before.map((_, i) => asked(i).sent)
        ].map((all) => bytes(sum(all)))
      ]
    ])
    const noised = noise.hidden > 0 || noise.gradient > 0 ? 'clipped and noised ' : ''
    this.#text(
      `What crosses between a clinic and a server is sealed for that server alone: no other clinic can open it, and none saw another's text or rows.
Servers open ${noised}hidden states and gradients, sequence lengths, and the founder's the gradients of the adapters that clinics share.
They see no text, label, loss or token. Noise makes rows harder to read back, it does not make that impossible: the README says what holds.`)
  }

  whereToGo (): void {
    this.#heading('Where to go next')
    this.#text(`With a model and text of your own:
  midspan init --home server --model DIRECTORY --name NAME     # where the model and the compute are
  midspan daemon --home server --listen /ip4/0.0.0.0/tcp/4001
  midspan invite --home server                                 # a line to hand over
  midspan join INVITE --home mine                              # where the text is
  midspan daemon --home mine
  midspan train --home mine --data FILE.jsonl
  midspan generate --home mine --prompt TEXT`)
    this.#text(`All of this took ${seconds((performance.now() - this.#startedAt) / 1000)}.`)
  }

  kept (directory: string): void {
    this.#text(`The demo's homes and records are in ${directory}`)
  }

  /** Leaves the terminal's last line clean. */
  end (): void {
    this.#progress.clear()
  }

  #heading (text: string): void {
    this.#terminal.line(`\n${this.#terminal.bold(text)}`)
  }

  #text (text: string): void {
    for (const line of text.split('\n')) this.#terminal.line(`  ${line}`)
  }

  #table (rows: ReadonlyArray<readonly string[]>): void {
    for (const line of table(rows)) this.#terminal.line(`  ${line}`)
  }

  #exchange (who: string, ailment: string, answered: string): void {
    this.#terminal.line(`    ${this.#terminal.dim(`${who}: ${question(ailment)}`)}${answered}`)
  }

  #working (text: string): void {
    if (this.#terminal.interactive) this.#progress.draw(`  ${text} …`)
    else this.#terminal.note(`${text} …`)
  }
}

interface Example {
  readonly index: number
  readonly ailment: string
  readonly owner: string
}

/** Returns a question about another's fact that the first clinic answers right only after training. */
function learntFromOthers (clinics: readonly Clinic[], before: Asked, after: Asked): Example | undefined {
  const owners = clinics.flatMap(({ name, facts }) => facts.map(() => name))
  const examples = allFacts(clinics).map(({ ailment, remedy }, index) => ({ index, ailment, remedy, owner: owners[index]! }))
  return examples.find(({ index, remedy, owner }) =>
    owner !== clinics[0]!.name && after.answers[index]!.includes(remedy) && !before.answers[index]!.includes(remedy)
  )
}

function shortId (peerId: string): string {
  return `…${peerId.slice(-shownIdDigits)}`
}

function sum (values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
