"""Writes audit_infill.json: what the words on both sides of a gap tell of what is withheld there, by PyTorch.

    python audit_infill_golden.py

Per small model of models.py: `ids` of one sequence, the gap [`first`, `end`), how many tokens `behind` it count, `fillings` that are
tried, each with the logarithm of its probability by the tokens before the gap and of that of the tokens behind it, and the `posterior`
of each. Every filling is put into the sequence, which then goes through the whole model alone: no cache.
"""
import torch

from common import HERE, encode, formula_model, logits_of, token_ids, write_json
from models import MODELS

CASES = [('llama/gqa', 5, 7), ('mistral/window', 8, 9), ('qwen3/plain', 3, 6)]
TOKENS = 14
BEHIND = 4
FILLINGS = 12


def case(name, first, end):
    config, *_ = MODELS[name]
    seed = f'audit-infill-golden/{name}'
    model = formula_model(seed, config)
    ids = token_ids(seed, [TOKENS], config['vocab_size'])[0]
    others = token_ids(f'{seed}/fillings', [end - first] * (FILLINGS - 1), config['vocab_size'])
    fillings = [ids[first:end], *others]
    before, behind = [], []
    for filling in fillings:
        whole = [*ids[:first], *filling, *ids[end:end + BEHIND]]
        with torch.no_grad():
            logs = torch.log_softmax(logits_of(model(torch.tensor([whole]), use_cache=False))[0].double(), -1)
        each = [float(logs[position - 1, whole[position]]) for position in range(first, len(whole))]
        before.append(sum(each[:end - first]))
        behind.append(sum(each[end - first:]))
    posterior = torch.softmax(torch.tensor(before, dtype=torch.float64) + torch.tensor(behind, dtype=torch.float64), 0)
    return {'name': name, 'seed': seed, 'config': config, 'shapes': {weight: list(value.shape) for weight, value in model.named_parameters()},
            'ids': ids, 'first': first, 'end': end, 'behind': BEHIND, 'fillings': fillings, 'logBefore': encode(torch.tensor(before)),
            'logBehind': encode(torch.tensor(behind)), 'posterior': encode(posterior)}


if __name__ == '__main__':
    torch.set_num_threads(1)
    write_json(HERE / 'audit_infill.json', [case(*each) for each in CASES])
