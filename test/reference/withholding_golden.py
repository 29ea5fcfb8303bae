"""Writes withholding.json: the loss and the gradients of one pass in which words are withheld, by PyTorch and PEFT.

    python withholding_golden.py

The base model and its adapters are llama/gqa.json's, with one block at the bottom, one in the middle and one at the top. The bottom runs over all
tokens, h, and over those that are sent alone, r; the middle makes f of r. Gradients for what is sent are those of a loss over the sent tokens as if
there were no others; the client's own loss is over all tokens, with h + (f - r) where a token was sent and h + gate · (f - r) of the last sent one
where it was not, f - r being given. Its gradients are scaled by counted sent tokens over counted tokens.
"""
import torch
import torch.nn.functional as F

from common import HERE, blocks_of, encode, formula_lora, formula_model, lora_parameters, token_ids, with_lora, write_json
from models import MODELS, TARGETS

BASE = 'llama/gqa'
SEED = 'llama-golden/gqa'
LORA = {'r': 2, 'alpha': 4}
LENGTHS = [14, 9]
"""The tokens that are withheld; the first of the second sequence among them."""
WITHHELD = [[3, 4, 7, 12], [0, 5]]


def golden():
    config = MODELS[BASE][0]
    model = with_lora(formula_model(SEED, config), **LORA, targets=TARGETS['llama'])
    parameters = {short: parameter for short, _, parameter in lora_parameters(model)}
    with torch.no_grad():
        for _, file_name, parameter in lora_parameters(model):
            parameter.copy_(formula_lora(SEED, file_name, tuple(parameter.shape)))
    base = model.get_base_model()
    blocks = blocks_of(model)

    def run(block, hidden):
        positions = torch.arange(hidden.shape[0])[None]
        mask = torch.full((hidden.shape[0],) * 2, float('-inf')).triu(1)[None, None]
        output = blocks[block](hidden[None], attention_mask=mask, position_ids=positions, position_embeddings=base.model.rotary_emb(hidden[None], positions))
        return (output if isinstance(output, torch.Tensor) else output[0])[0]

    def loss(hidden, targets):
        return F.cross_entropy(base.lm_head(base.model.norm(run(2, hidden))), torch.tensor(targets), reduction='sum')

    of = [[name for name in parameters if name.startswith(f'{block}.')] for block in range(3)]
    gate = (0.5 + torch.arange(config['hidden_size'], dtype=torch.float32) / 100).requires_grad_()
    sequences = token_ids(f'{SEED}/withholding', LENGTHS, config['vocab_size'])
    counts = [(len(ids) - len(withheld) - 1, len(ids) - 1) for ids, withheld in zip(sequences, WITHHELD)]
    scale = sum(sent for sent, _ in counts) / sum(own for _, own in counts)
    gradients = {name: torch.zeros_like(value) for name, value in parameters.items()}
    gate_gradient = torch.zeros_like(gate)
    total = 0.0
    for ids, withheld in zip(sequences, WITHHELD):
        sent = [i for i in range(len(ids)) if i not in withheld]
        embed = base.model.embed_tokens
        released = run(0, embed(torch.tensor([ids[i] for i in sent[:-1]])))
        entering = released.detach().requires_grad_()
        back = run(1, entering)
        came = back.detach().requires_grad_()
        up, = torch.autograd.grad(loss(came, [ids[i] for i in sent[1:]]), came)
        down, *middle = torch.autograd.grad(back, [entering, *(parameters[name] for name in of[1])], up)
        added = (came - entering).detach()
        rows = [sum(place <= i for place in sent[:-1]) - 1 for i in range(len(ids) - 1)]
        weights = torch.stack([
            torch.zeros_like(gate) if row < 0 else torch.ones_like(gate) if i == sent[row] else gate for i, row in enumerate(rows)
        ])
        own = run(0, embed(torch.tensor(ids[:-1]))) + weights * added[[max(row, 0) for row in rows]]
        lost = loss(own, ids[1:])
        total += lost.item()
        names = [*of[0], *of[2]]
        *ends, of_gate = torch.autograd.grad(scale * lost, [*(parameters[name] for name in names), gate])
        through = torch.autograd.grad(released, [parameters[name] for name in of[0]], down - up)
        gate_gradient += of_gate
        for name, gradient in [*zip(names, ends), *zip(of[0], through), *zip(of[1], middle)]:
            gradients[name] += gradient
    return {'base': BASE, 'sequences': sequences, 'withheld': WITHHELD, 'gate': encode(gate), 'loss': total, 'gateGradient': encode(gate_gradient),
            'gradients': {name: encode(gradient) for name, gradient in gradients.items()}}


if __name__ == '__main__':
    torch.set_num_threads(1)
    write_json(HERE / 'withholding.json', golden())
