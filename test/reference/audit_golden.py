"""Writes audit.json: what an attacker who knows the words before each token makes of released hidden states, by PyTorch.

    python audit_golden.py

Per small model of models.py: `ids` of one sequence, `inputBlocks` that the client computes, `clip` and `noise`, `released`
[tokens, hidden] (the clipped rows with Gaussian noise of deviation noise * clip / sqrt(hidden) on each coordinate), `prior`
[tokens - 1, vocabulary] (logarithms of probabilities of each token but the first), and `posterior` of the same shape. Every
candidate is put behind the tokens before it and run through the whole model alone: no cache and no shared prefix.
"""
import math

import numpy as np
import torch

from common import HERE, blocks_of, encode, formula_model, signed_uniform, token_ids, write_json
from models import MODELS

CASES = [('llama/gqa', 2, 0.8), ('mistral/window', 2, 1.6), ('qwen3/plain', 1, 0.8), ('llama/plain', 0, 0.8)]
TOKENS = 9


def normal(label, count):
    u = (signed_uniform(f'{label}/radius', count) + 1) / 2 + 2.0**-25
    angle = math.pi * signed_uniform(f'{label}/angle', count)
    return np.sqrt(-2 * np.log(u)) * np.cos(angle)


def rows_before(model, block, ids):
    """What enters a block, or leaves the last one, for one sequence: [tokens, hidden]."""
    states = []
    layers = blocks_of(model)
    hook = layers[block].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) if block < len(layers) \
        else layers[-1].register_forward_hook(lambda _, __, output: states.append(output))
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    hook.remove()
    return states[0][0].double()


def clipped(rows, clip):
    return rows * (clip / rows.norm(dim=-1, keepdim=True)).clamp(max=1)


def case(name, input_blocks, noise):
    config, *_ = MODELS[name]
    seed = f'audit-golden/{name}'
    model = formula_model(seed, config)
    ids = token_ids(seed, [TOKENS], config['vocab_size'])[0]
    rows = rows_before(model, input_blocks, ids)
    clip = round(float(rows.norm(dim=-1).median()), 3)
    deviation = noise * clip / math.sqrt(rows.shape[1])
    added = torch.from_numpy(normal(seed, rows.numel()).reshape(rows.shape)) * deviation
    released = (clipped(rows, clip) + added).float()
    logits = torch.from_numpy(2 * signed_uniform(f'{seed}/prior', (TOKENS - 1) * config['vocab_size'])).reshape(TOKENS - 1, -1)
    prior = torch.log_softmax(logits, -1).float()
    posterior = []
    for position in range(1, TOKENS):
        means = torch.stack([rows_before(model, input_blocks, [*ids[:position], candidate])[-1] for candidate in range(config['vocab_size'])])
        distances = (released[position].double() - clipped(means, clip)).square().sum(-1)
        posterior.append(torch.softmax(-distances / (2 * deviation**2) + prior[position - 1].double(), -1))
    return {'name': name, 'seed': seed, 'config': config, 'shapes': {weight: list(value.shape) for weight, value in model.named_parameters()},
            'ids': ids, 'inputBlocks': input_blocks, 'clip': clip, 'noise': noise, 'released': encode(released), 'prior': encode(prior),
            'posterior': encode(torch.stack(posterior))}


if __name__ == '__main__':
    torch.set_num_threads(1)
    write_json(HERE / 'audit.json', [case(*each) for each in CASES])
