"""Writes FAMILY/steps.json: the LoRA parameters after 50 AdamW steps on one small model of each family, by PyTorch and PEFT.

    python steps_golden.py [FAMILY …]      # all without names

The base model is FAMILY/plain.json's. A step takes the next of `batches`, in turn, and the mean loss over all of its next
tokens. AdamW's first steps are of size lr whatever the gradient's: an element whose gradient is almost zero goes either way
by rounding alone. So the seed of the adapters and batches is the first with which float32 and float64 end within
MOST_ROUNDING of each other (`rounding`), and a comparison at 1e-3 speaks of the method.
"""
import itertools
import sys
import types

import torch
import torch.nn.functional as F

from common import HERE, deviations, encode, formula_lora, formula_model, logits_of, lora_parameters, token_ids, with_lora, write_json
from models import MODELS, TARGETS

STEPS = 50
LENGTHS = [[5, 12], [9, 3, 7], [16], [8, 8]]
LORA = {'r': 2, 'alpha': 4}
ADAMW = {'lr': 1e-3, 'betas': [0.9, 0.999], 'eps': 1e-8, 'weightDecay': 0.01}
MOST_ROUNDING = 2e-5


def use_float64(model):
    """transformers computes norms and rotations in float32 whatever the model's type: put float64 in their place."""
    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def rotary(self, x, position_ids):
        size = 2 * len(self.inv_freq)
        frequencies = self.config.rope_parameters['rope_theta'] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = (position_ids[..., None].double() * frequencies).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    for module in model.double().modules():
        if hasattr(module, 'variance_epsilon'):
            module.forward = types.MethodType(norm, module)
        elif hasattr(module, 'inv_freq'):
            module.forward = types.MethodType(rotary, module)


def mean_loss(model, sequences):
    total = sum(F.cross_entropy(logits_of(model(torch.tensor([ids[:-1]]), use_cache=False))[0], torch.tensor(ids[1:]), reduction='sum') for ids in sequences)
    return total / sum(len(ids) - 1 for ids in sequences)


def train(family, seed, batches, dtype):
    # The fused kernel is the one attention that keeps float64 throughout.
    model = formula_model(f'{family}-golden/plain', MODELS[f'{family}/plain'][0], 'sdpa' if dtype == torch.float64 else 'eager')
    if dtype == torch.float64:
        use_float64(model)
    model = with_lora(model, **LORA, targets=TARGETS[family])
    parameters = lora_parameters(model)
    with torch.no_grad():
        for short, file_name, parameter in parameters:
            if short.endswith('lora_A'):
                parameter.copy_(formula_lora(seed, file_name, tuple(parameter.shape)))
    optimiser = torch.optim.AdamW([parameter for _, _, parameter in parameters], lr=ADAMW['lr'], betas=ADAMW['betas'], eps=ADAMW['eps'],
                                  weight_decay=ADAMW['weightDecay'])
    losses = []
    for batch in itertools.islice(itertools.cycle(batches), STEPS):
        loss = mean_loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, {short: parameter.detach() for short, _, parameter in parameters}


def golden(family):
    config = MODELS[f'{family}/plain'][0]
    vocabulary = config.get('vocab_size') or config['padded_vocab_size']
    for number in itertools.count():
        seed = f'{number:02x}'
        batches = [token_ids(f'{family}/{seed}/{i}', lengths, vocabulary) for i, lengths in enumerate(LENGTHS)]
        losses, final = train(family, seed, batches, torch.float32)
        rounding = deviations(final, train(family, seed, batches, torch.float64)[1])
        print(family, seed, losses[0], losses[-1], rounding)
        if rounding['tensor'] < MOST_ROUNDING:
            return {'base': f'{family}/plain', 'seed': seed, 'lora': {**LORA, 'targets': TARGETS[family]}, 'adamw': ADAMW, 'steps': STEPS, 'batches': batches,
                    'firstLoss': losses[0], 'lastLoss': losses[-1], 'rounding': rounding, 'final': {name: encode(value) for name, value in final.items()}}


if __name__ == '__main__':
    torch.set_num_threads(1)
    for name in sys.argv[1:] or TARGETS:
        write_json(HERE / name / 'steps.json', golden(name))
