"""Writes train.json: centralised LoRA training of stories260K on three clients' text, by transformers and PEFT.

    python train_golden.py DATA            # a directory with stories260K-hf/ and tinyshakespeare/

The clients are the three speakers of tiny Shakespeare with the most text, in the file's order. Each has two sequences of
its own lengths in every round, cut one after the other from its tokens, each behind a BOS; every token but the first is a
target. A round is one AdamW step on the mean loss over all targets of all clients. `ids[round][client]` are the sequences,
so that nothing here has to be repeated to compare with it. The same in float64 (`final64`) says what rounding alone does.
"""
import re
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama

from common import ATTENTION, HERE, deviations, encode, formula_lora, lora_parameters, with_lora, write_json

LENGTHS = [[24, 40], [31, 17], [48, 9]]
HELD_OUT_LENGTHS = [64, 64, 33]
ROUNDS = 20
# AdamW's first steps are of size lr whatever the gradient's: an element whose gradient is almost zero goes either way by
# rounding alone (with some seeds, 5e-3 of its tensor's largest value). With this one rounding stays at 1e-5, so that a
# comparison at 1e-4 speaks of the method. In hex, as charters have it.
SEED = '07'
LORA = {'r': 8, 'alpha': 16, 'targets': ATTENTION}
ADAMW = {'lr': 1e-3, 'betas': [0.9, 0.999], 'eps': 1e-8, 'weightDecay': 0.01}
BOS = 1


def speeches(text):
    """All a speaker says, by name, in order of first appearance."""
    spoken = {}
    for block in re.split(r'\n{2,}', text.strip()):
        name, _, words = block.partition('\n')
        spoken.setdefault(name.removesuffix(':'), []).append(words)
    return {name: '\n'.join(blocks) for name, blocks in spoken.items()}


def cut(tokens, lengths, rounds):
    """Sequences of these lengths, BOS included, for each round."""
    position, result = 0, []
    for _ in range(rounds):
        result.append([])
        for length in lengths:
            result[-1].append([BOS, *tokens[position:position + length - 1]])
            position += length - 1
    return result


def use_float64():
    """transformers computes norms and rotations in float32 whatever the model's type: put float64 in their place."""
    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def rotary(self, x, position_ids):
        size = self.config.head_dim
        frequencies = self.config.rope_parameters['rope_theta'] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = (position_ids[..., None].double() * frequencies).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    modeling_llama.LlamaRMSNorm.forward = norm
    modeling_llama.LlamaRotaryEmbedding.forward = rotary


def summed_loss(model, sequences):
    total = 0
    for sequence in sequences:  # one at a time: no padding, and so no question of how it is masked
        ids = torch.tensor([sequence])
        total = total + F.cross_entropy(model(ids[:, :-1], use_cache=False).logits[0], ids[0, 1:], reduction='sum')
    return total


def target_count(sequences):
    return sum(len(sequence) - 1 for sequence in sequences)


def train(directory, dtype, ids, held_out):
    # The fused kernel is the one attention that keeps float64 throughout.
    attention = 'sdpa' if dtype == torch.float64 else 'eager'
    model = LlamaForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention)
    model = with_lora(model, LORA['r'], LORA['alpha'], LORA['targets'])
    parameters = lora_parameters(model)
    with torch.no_grad():
        for short, file_name, parameter in parameters:
            assert parameter.dtype == dtype
            if short.endswith('lora_A'):
                parameter.copy_(formula_lora(SEED, file_name, tuple(parameter.shape)))
    optimiser = torch.optim.AdamW([parameter for _, _, parameter in parameters], lr=ADAMW['lr'], betas=ADAMW['betas'],
                                  eps=ADAMW['eps'], weight_decay=ADAMW['weightDecay'])

    def held_out_loss():
        with torch.no_grad():
            return summed_loss(model, held_out).item() / target_count(held_out)

    before, losses = held_out_loss(), []
    for clients in ids:
        sequences = [sequence for client in clients for sequence in client]
        loss = summed_loss(model, sequences) / target_count(sequences)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return {'losses': losses, 'heldOutBefore': before, 'heldOutAfter': held_out_loss(),
            'final': {short: parameter.detach() for short, _, parameter in parameters}}


def main(data):
    text = (data / 'tinyshakespeare/input.txt').read_text(encoding='utf-8')
    tokenizer = Tokenizer.from_file(str(data / 'stories260K-hf/tokenizer.json'))
    spoken = speeches(text)
    ranked = sorted(spoken, key=lambda name: -len(spoken[name]))
    speakers = [name for name in spoken if name in ranked[:3]]
    tokens = {name: tokenizer.encode(spoken[name], add_special_tokens=False).ids for name in ranked[:4]}
    by_client = [cut(tokens[name], lengths, ROUNDS) for name, lengths in zip(speakers, LENGTHS)]
    ids = [list(clients) for clients in zip(*by_client)]
    held_out = cut(tokens[ranked[3]], HELD_OUT_LENGTHS, 1)[0]

    single = train(data / 'stories260K-hf', torch.float32, ids, held_out)
    use_float64()
    double = train(data / 'stories260K-hf', torch.float64, ids, held_out)
    rounding = deviations(single['final'], double['final'])
    print(speakers, single['losses'][0], single['losses'][-1], single['heldOutBefore'], single['heldOutAfter'], rounding)
    write_json(HERE / 'train.json', {
        'seed': SEED, 'lora': LORA, 'adamw': ADAMW, 'speakers': speakers, 'ids': ids, 'heldOut': held_out,
        **{key: single[key] for key in ('losses', 'heldOutBefore', 'heldOutAfter')}, 'losses64': double['losses'], 'rounding': rounding,
        'final': {name: encode(value) for name, value in single['final'].items()},
        'final64': {name: encode(value) for name, value in double['final'].items()}})


if __name__ == '__main__':
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
