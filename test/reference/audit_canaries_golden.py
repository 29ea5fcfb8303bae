"""Writes audit_canaries.json: the exposure of secrets behind a prefix, by PyTorch.

    python audit_canaries_golden.py

Per small model of models.py: a `prefix`, `secrets`, the loss of each behind the prefix, summed over its tokens, and its exposure among the
others (Carlini et al. 2019): log2 of the number of secrets less log2 of its rank by loss.
"""
import math

import torch
from torch.nn.functional import cross_entropy

from common import HERE, encode, formula_model, logits_of, token_ids, write_json
from models import MODELS

CASES = ['llama/gqa', 'qwen3/plain']
PREFIX = 3
SECRETS = 24
LENGTH = 4


def case(name):
    config, *_ = MODELS[name]
    seed = f'audit-canaries-golden/{name}'
    model = formula_model(seed, config)
    prefix, *secrets = token_ids(seed, [PREFIX, *[LENGTH] * SECRETS], config['vocab_size'])
    losses = []
    for secret in secrets:
        with torch.no_grad():
            logits = logits_of(model(torch.tensor([[*prefix, *secret]]), use_cache=False))[0].double()
        losses.append(float(cross_entropy(logits[PREFIX - 1:-1], torch.tensor(secret), reduction='sum')))
    exposures = [math.log2(SECRETS) - math.log2(1 + sum(other < loss for other in losses)) for loss in losses]
    return {'name': name, 'seed': seed, 'config': config, 'shapes': {weight: list(value.shape) for weight, value in model.named_parameters()},
            'prefix': prefix, 'secrets': secrets, 'losses': encode(torch.tensor(losses)), 'exposures': exposures}


if __name__ == '__main__':
    torch.set_num_threads(1)
    write_json(HERE / 'audit_canaries.json', [case(each) for each in CASES])
