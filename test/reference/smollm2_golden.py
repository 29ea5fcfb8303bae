"""Writes smollm2.json: centralised LoRA training of SmolLM2-135M-Instruct on two clients' text, by transformers and PEFT.

    python smollm2_golden.py MODEL [--float64]         # the model's directory

Each of two clients has two sequences of 32 targets in every round, behind a BOS, of sentences that this script makes. A round
is one AdamW step on the mean loss over all targets. The model has 30 blocks, and its adapters 460,800 numbers: of each tensor
the file has the norm, and `SAMPLES` elements at even distances. With --float64 the same is computed in float64 too, which says
what rounding alone does. The optimiser is FL-LLaMA's: with its epsilon an element whose gradient is almost zero stays where it
is; with 1e-8 it goes either way by rounding alone, and PyTorch's own float32 ends 1e-3 from its float64.
"""
import base64
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from common import HERE, formula_lora, lora_parameters, with_lora, write_json
from train_golden import summed_loss, target_count, use_float64

ROUNDS, CLIENTS, SEQUENCES, TARGETS = 5, 2, 2, 32
SAMPLES = 64
SEED = '07'
LORA = {'r': 8, 'alpha': 16, 'targets': ['q_proj', 'v_proj']}
ADAMW = {'lr': 1e-3, 'betas': [0.9, 0.999], 'eps': 1e-5, 'weightDecay': 0.01}
BOS = 1
# The tests write each id as one character, for which there are not as many as the model has ids.
IDS = 30_000

WHO = ['The miller', 'A sailor', 'The old judge', 'My sister', 'Their cook', 'The young doctor']
DID = ['crossed the bridge', 'sold a horse', 'wrote a letter', 'lost the key', 'found the road', 'closed the shop']
WHERE = ['near the harbour', 'in the valley', 'behind the church', 'on the hill', 'by the river', 'at the market']
WHY = ['because it rained', 'before the war', 'after the harvest', 'while we slept', 'without a word', 'for ten coins']


def text(client):
    choices = random.Random(client)
    return ' '.join(f'{choices.choice(WHO)} {choices.choice(DID)} {choices.choice(WHERE)} {choices.choice(WHY)}.' for _ in range(80))


def sequences_of(client, tokenizer):
    tokens = [id for id in tokenizer.encode(text(client), add_special_tokens=False).ids if 1 < id < IDS]
    cut = [[BOS, *tokens[at:at + TARGETS]] for at in range(0, ROUNDS * SEQUENCES * TARGETS, TARGETS)]
    assert all(len(sequence) == TARGETS + 1 for sequence in cut)
    return [cut[at:at + SEQUENCES] for at in range(0, len(cut), SEQUENCES)]


def train(directory, dtype, ids):
    attention = 'sdpa' if dtype == torch.float64 else 'eager'
    model = with_lora(LlamaForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention), LORA['r'], LORA['alpha'], LORA['targets'])
    parameters = lora_parameters(model)
    with torch.no_grad():
        for short, file_name, parameter in parameters:
            assert parameter.dtype == dtype
            if short.endswith('lora_A'):
                parameter.copy_(formula_lora(SEED, file_name, tuple(parameter.shape)))
    optimiser = torch.optim.AdamW([parameter for _, _, parameter in parameters], lr=ADAMW['lr'], betas=ADAMW['betas'],
                                  eps=ADAMW['eps'], weight_decay=ADAMW['weightDecay'])
    losses = []
    for clients in ids:
        sequences = [sequence for client in clients for sequence in client]
        loss = summed_loss(model, sequences) / target_count(sequences)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, {short: parameter.detach() for short, _, parameter in parameters}


def sample(tensor):
    flat = tensor.double().flatten()
    return flat[torch.arange(SAMPLES) * (len(flat) // SAMPLES)]


def main(directory, float64):
    tokenizer = Tokenizer.from_file(str(directory / 'tokenizer.json'))
    ids = [list(clients) for clients in zip(*[sequences_of(client, tokenizer) for client in range(CLIENTS)])]
    losses, final = train(directory, torch.float32, ids)
    if float64:
        use_float64()
        losses64, final64 = train(directory, torch.float64, ids)
        print(losses64, max((final[name].double() - final64[name]).abs().max().item() for name in final))
    print(losses)
    samples = torch.cat([sample(tensor) for tensor in final.values()]).float()
    write_json(HERE / 'smollm2.json', {
        'seed': SEED, 'lora': LORA, 'adamw': ADAMW, 'ids': ids, 'losses': losses, 'samples': SAMPLES,
        'names': list(final), 'norms': [tensor.double().norm().item() for tensor in final.values()],
        'values': base64.b64encode(samples.numpy().astype('<f4').tobytes()).decode()})


if __name__ == '__main__':
    torch.set_num_threads(2)
    main(Path(sys.argv[1]), '--float64' in sys.argv)
