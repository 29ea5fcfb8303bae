import { command } from '../command.ts'
import { defaulted, toggle } from '../option.ts'
import { NOISE_BOUNDS } from '../shared-options.ts'
import { integer, number } from '../values.ts'

export const demo = command({
  name: 'demo',
  group: 'Look',
  summary: 'Show a whole federation at work on this machine',
  details:
    `Three servers and three clients with private text, each a process of its own, train a small model together: what each can answer
before and after, alone and together, what crossed the network, and where to go next. Takes a minute or two and leaves nothing behind.`,
  options: {
    rounds: defaulted('COUNT', integer({ min: 1 }), '80', 'Rounds of training; with many fewer, little is learnt'),
    noise: defaulted('SCALE', number(NOISE_BOUNDS), '0.1', 'Noise on the hidden states that leave a client'),
    gradientNoise: defaulted('SCALE', number(NOISE_BOUNDS), '0.1', 'Noise on the gradients that leave a client'),
    seed: defaulted(
      'NUMBER',
      integer({ min: 0, max: 2 ** 32 - 1 }),
      '1',
      "What the clients' facts are drawn from: another seed, other facts"
    ),
    keep: toggle('Leave the homes and the data where they are, and say where')
  },
  examples: [{ command: 'midspan demo', about: 'from a clone: npm run demo' }],
  async run ({ rounds, noise, gradientNoise, seed, keep }, { terminal, signal }) {
    const { runDemo } = await import('../demo/demo.ts')
    await runDemo({ rounds, noise: { hidden: noise, gradient: gradientNoise }, seed, keep }, terminal, signal)
  }
})
