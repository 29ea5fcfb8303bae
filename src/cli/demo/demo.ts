import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDevice } from '../../model/runtime/worker-device.ts'
import { askDaemon } from '../daemon-client.ts'
import type { Terminal } from '../terminal.ts'
import { makeClinics, type Clinic } from './corpus.ts'
import { ask, generate, modelDirectory, startFederation, trainTogether, type Asked, type DemoFederation, type Noise } from './federation.ts'
import { trainAndAsk, type Recipe } from './local-model.ts'
import { Processes } from './processes.ts'
import type { LocalResults, NetworkResults, Sample } from './results.ts'
import { allFacts } from './score.ts'
import { DemoView } from './view.ts'

export interface DemoOptions {
  readonly rounds: number
  readonly noise: Noise
  /** What the clinics' facts are drawn from. */
  readonly seed: number
  /** Leaves the homes where they are. */
  readonly keep: boolean
}

/** How a note begins, for the sample. */
const samplePrompt = 'On Monday'
const sampleTokens = 40
const sampleTemperature = 0.7

/** Pieces of the sample after which a server is killed. */
const killAfterPieces = 10

/** Found by trial: so few rounds need large steps, and the linear fall to nothing ends them calmly. */
function recipeFor (rounds: number): Recipe {
  return {
    adapters: {
      r: 16,
      alpha: 32,
      dropout: 0,
      rslora: false,
      targets: ['q_proj', 'v_proj', 'gate_proj', 'up_proj', 'down_proj'],
      seed: 'd3e0'
    },
    optimizer: { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0 },
    learningRate: 0.008,
    schedule: { name: 'linear', warmupRounds: 5, totalRounds: rounds },
    maxGradientNorm: 1,
    rounds,
    sequences: 16
  }
}

/** Runs the demo from the founding to the comparison; ends its processes and removes its files whatever happens. */
export async function runDemo ({ rounds, noise, seed, keep }: DemoOptions, terminal: Terminal, signal: AbortSignal): Promise<void> {
  const view = new DemoView(terminal)
  const clinics = makeClinics(String(seed))
  const recipe = recipeFor(rounds)
  const directory = await mkdtemp(join(tmpdir(), 'midspan-demo-'))
  const processes = new Processes()
  try {
    view.opening(clinics, noise)
    const federation = await startFederation(processes, directory, clinics, recipe, noise, signal)
    view.members(federation, (await askDaemon(federation.serverHome, 'peers', {}, signal)).peers)
    const network = await runNetwork(federation, clinics, recipe, view, signal)
    await processes.stop()
    const local = await runLocally(federation, clinics, recipe, view, signal)
    view.comparison(clinics, network, local)
    view.sample(clinics, samplePrompt, network.sample)
    view.traffic(federation, network, noise)
    view.whereToGo()
  } finally {
    view.end()
    await processes.stop()
    if (keep) view.kept(directory)
    else await rm(directory, { recursive: true, force: true })
  }
}

async function runNetwork (
  federation: DemoFederation,
  clinics: readonly Clinic[],
  recipe: Recipe,
  view: DemoView,
  signal: AbortSignal
): Promise<NetworkResults> {
  const { members } = federation
  const ailments = allFacts(clinics).map(({ ailment }) => ailment)
  const askAll = async (): Promise<Asked[]> => await Promise.all(members.map(async (member) => await ask(member, ailments, signal)))
  view.asking(ailments.length)
  const before = await askAll()
  view.before(clinics, before)
  view.training(recipe.rounds)
  const trained = await trainTogether(members, recipe, (member, round) => { view.round(member, round) }, signal)
  view.trained(trained)
  view.asking(ailments.length)
  const after = await askAll()
  return { before, trained, after, sample: await generateTwice(federation, signal) }
}

/** Generates one text twice at the first clinic, the second time while a server that carries it is killed. */
async function generateTwice ({ members: [first], workers }: DemoFederation, signal: AbortSignal): Promise<Sample> {
  const { home } = first!
  const request = { prompt: samplePrompt, maxTokens: sampleTokens, temperature: sampleTemperature, seed: 1 }
  const undisturbed = await generate(home, request, signal)
  const worker = workers.find(({ peerId }) => undisturbed.route.some(({ server }) => server === peerId)) ?? workers[0]!
  let pieces = 0
  const survived = await generate(home, request, signal, () => {
    if (++pieces === killAfterPieces) worker.kill()
  })
  return { undisturbed, survived, killed: worker.peerId }
}

/** Returns the same training without a network, for comparison: the same model, records, rounds and steps, and no noise. */
async function runLocally (
  { members }: DemoFederation,
  clinics: readonly Clinic[],
  recipe: Recipe,
  view: DemoView,
  signal: AbortSignal
): Promise<LocalResults> {
  const ailments = allFacts(clinics).map(({ ailment }) => ailment)
  const device = await openDevice('cpu', { threads: Math.min(2, availableParallelism()) })
  try {
    const train = async (files: readonly string[]): Promise<string[]> =>
      await trainAndAsk(device, modelDirectory, files, recipe, ailments, signal)
    const alone: string[][] = []
    for (const { clinic, file } of members) {
      view.comparing(`${clinic.name} alone`)
      alone.push(await train([file]))
    }
    view.comparing('all records on one machine')
    return { alone, centralised: await train(members.map(({ file }) => file)) }
  } finally {
    await device.close()
  }
}
