import { defaulted, grouped, mandatory, optional, repeated, toggle } from '../option.ts'
import { compute, device, NOISE_BOUNDS, threads, weights } from '../shared-options.ts'
import {
  aggregation,
  blockNumbers,
  choice,
  clip,
  duration,
  ends,
  hexSeed,
  integer,
  list,
  normOrNone,
  number,
  path,
  peerId,
  range,
  size,
  span,
  text
} from '../values.ts'

const count = integer({ min: 1 })

const federation = grouped('Federation', {
  role: defaulted('ROLE', choice('server'), 'server', 'Only a server, which has the model, can found a federation'),
  model: mandatory('DIR', path, 'A Hugging Face directory: config.json, a tokenizer and safetensors files'),
  name: mandatory('NAME', text, 'What people call the federation'),
  blocks: optional(
    'FIRST-END',
    span,
    'Blocks that this server serves: the first one, and the one after the last. Others wait for servers that join',
    'all that servers can serve'
  ),
  admission: defaulted(
    'HOW',
    choice('invite', 'allow-list', 'open'),
    'invite',
    'Who may join: holders of an invite, peers named by --allow, or anybody'
  ),
  allow: repeated('PEERID', peerId, 'A peer that may join without an invite'),
  inputBlocks: defaulted('MIN..MAX', range({ min: 0 }), '1', 'Blocks that a client may keep as its input span'),
  outputBlocks: defaulted('MIN..MAX', range({ min: 0 }), '1', 'Blocks that a client may keep as its output span')
})

const privacy = grouped('Privacy', {
  noise: defaulted(
    'SCALE',
    number(NOISE_BOUNDS),
    '0',
    "Least noise on hidden states that leave a client: the expected norm of a row's noise over the clip norm"
  ),
  gradientNoise: defaulted('SCALE', number(NOISE_BOUNDS), '0', 'The same for gradients'),
  clip: defaulted(
    'NORM',
    clip,
    'auto',
    'L2 norm that released rows are clipped to: auto (measured on the model; rows without noise stay exact), none, or a number'
  ),
  calibrate: optional(
    'FILE',
    path,
    'Text, in the formats of train, to measure clip norms and the cost of noise on',
    'a small built-in sample'
  ),
  wire: defaulted('TYPE', choice('fp32', 'fp16', 'int8'), 'fp16', 'Numbers on the wire: fp32, fp16, or int8 with a scale a row')
})

const adapters = grouped('Adapters', {
  loraR: defaulted('RANK', integer({ min: 1, max: 4096 }), '8', 'Rank of the adapters'),
  loraAlpha: defaulted('NUMBER', number({ min: 0, above: true }), '16', 'Adapters are scaled by alpha / rank'),
  loraDropout: defaulted('SHARE', number({ min: 0, max: 0.99 }), '0', "Dropout on the adapters' input"),
  loraTargets: optional(
    'NAMES',
    list(text),
    'Linear modules that get one: as the model names them (q_proj, or q for short), or all-linear',
    "those of the model's attention"
  ),
  loraRslora: toggle('Scale by alpha / sqrt(rank) instead'),
  adapter: optional(
    'DIR',
    path,
    'A PEFT adapter to start from; its rank, alpha, scaling and modules stand in place of these options',
    'new adapters'
  ),
  seed: optional('HEX', hexSeed, "The adapters' start is derived from it", 'random')
})

const ownWeights = grouped("The model's own weights", {
  trainBlocks: optional('BLOCKS', blockNumbers, 'Blocks to train whole, in place of adapters, such as 2..3,5', 'none'),
  trainBias: defaulted(
    'WHICH',
    choice('none', 'all', 'lora_only'),
    'none',
    'Biases to train in the other blocks: none, all, or those of the modules that have adapters'
  )
})

const optimiser = grouped('Optimiser (AdamW)', {
  learningRate: defaulted('NUMBER', number({ min: 0, above: true }), '0.001', 'Learning rate at its highest'),
  weightDecay: defaulted('NUMBER', number({ min: 0 }), '0', 'Decoupled weight decay'),
  beta1: defaulted('NUMBER', number({ min: 0, max: 0.9999999 }), '0.9', 'Decay of the first moment'),
  beta2: defaulted('NUMBER', number({ min: 0, max: 0.9999999 }), '0.999', 'Decay of the second moment'),
  epsilon: defaulted('NUMBER', number({ min: 0, above: true }), '1e-8', 'Added to the root of the second moment'),
  schedule: defaulted('NAME', choice('constant', 'linear', 'cosine'), 'constant', 'How the learning rate goes on after the warm-up'),
  warmupRounds: defaulted('COUNT', integer({ min: 0 }), '0', 'Rounds over which the learning rate rises'),
  totalRounds: defaulted('COUNT', count, '1000', 'Rounds after which a linear or cosine schedule reaches 0'),
  maxGradientNorm: defaulted('NORM', normOrNone, '1', "L2 norm that a round's gradient is clipped to, or none"),
  gradientNormScope: defaulted(
    'WHOSE',
    choice('party', 'global'),
    'party',
    'Whose gradient that norm is of, where ends are not shared: party (each its own) or global (all together; clients tell the server the norm of theirs)'
  )
})

const rounds = grouped('Rounds', {
  accumulate: defaulted('COUNT', count, '1', 'Batches that each client brings to a round, one after another: memory is for one'),
  strategy: defaulted(
    'NAME',
    choice('client-batch', 'sequential', 'server-hierarchical'),
    'client-batch',
    'client-batch: all clients in one run; sequential: one after the other; server-hierarchical: servers of the same blocks each ' +
      'step their own adapters, and average them'
  ),
  averageEvery: optional('COUNT', count, 'Rounds from one average of the servers\' adapters to the next: for server-hierarchical', '10 there'),
  ends: defaulted(
    'HOW',
    ends,
    'shared',
    'Adapters that clients hold: shared (exact), average:K (every K rounds) or personal (never leave)'
  ),
  aggregation: defaulted(
    'HOW',
    aggregation,
    'plain',
    'What clients contribute of their adapters: plain, or secure[:COUNT], masked so that the server learns the sum over COUNT clients (3) or more alone'
  ),
  minClients: defaulted('COUNT', count, '1', 'Clients that a round waits for'),
  roundDeadline: optional(
    'DURATION',
    duration({ max: '7d' }),
    'How long a round waits for one client, all of its replies together; 7d at most',
    'what a slow machine takes for the largest batch, 60s at least; see docs/rounds.md'
  )
})

const limits = grouped('Limits', {
  maxTokensPerClient: defaulted('COUNT', count, '4096', 'Tokens of a batch that one client brings to a round'),
  maxSequenceTokens: optional('COUNT', count, 'Tokens of a sequence', "the model's context"),
  maxClients: defaulted('COUNT', count, '32', 'Clients that may have a place at one time, connected or not'),
  cacheBytes: defaulted('SIZE', size, '1GiB', 'Memory for the key and value caches of all generations')
})

const machine = grouped('This machine', { threads, device, compute, weights })

export const initOptions = { ...federation, ...privacy, ...adapters, ...ownWeights, ...optimiser, ...rounds, ...limits, ...machine }
