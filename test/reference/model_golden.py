"""Writes FAMILY/NAME.json: hidden states, logits and LoRA gradients of the small models of models.py, by PyTorch and PEFT.

    python model_golden.py [FAMILY/NAME …]      # all without names

Per model: `config` (a config.json), `shapes` of its weights, `ids` (a ragged batch; each sequence is run alone, so no padding
rule is involved), `hidden` (at each block boundary, packed rows: entry i is what enters block i, the last what leaves the
last block, before the final norm) and `logits` of the base model; then with LoRA by formula (`lora`): `loraLoss`
(cross-entropy of every next token, summed), `loraHidden`, `loraLogits`, and the gradients of that sum for
`hiddenGradients` and `gradients`. Where rotations depend on the length reached, `decoded` has what leaves the last block,
with LoRA, when the first sequence comes token by token after its first `prompt` tokens.
"""
import sys

import torch
import torch.nn.functional as F

from common import (
    HERE, PEFT_PREFIX, blocks_of, encode, formula_lora, formula_model, formula_weight, logits_of, lora_parameters, token_ids, with_lora, write_json
)
from models import MODELS

R, ALPHA = 2, 4
DECODED = {'llama/rope-dynamic': 12}


def forget_lengths(model):
    """A model with dynamic rotations remembers the longest sequence that it has seen: as for one that has seen none."""
    for module in model.modules():
        if hasattr(module, 'original_inv_freq'):
            module.inv_freq, module.max_seq_len_cached = module.original_inv_freq.clone(), module.original_max_seq_len


def boundaries(layers, run):
    """What enters the first of the layers and leaves each, and what `run` gives."""
    states = []
    hooks = [layers[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))]
    hooks += [layer.register_forward_hook(lambda _, __, output: states.append(output)) for layer in layers]
    result = run()
    for hook in hooks:
        hook.remove()
    return states, result


def run_all(model, ids):
    """Logits and hidden states of each sequence, the latter keeping their gradients."""
    logits, hidden = [], []
    for sequence in ids:
        forget_lengths(model)
        states, output = boundaries(blocks_of(model), lambda: model(torch.tensor([sequence]), use_cache=False))
        logits.append(logits_of(output)[0])
        hidden.append(states)
    return logits, hidden


def decode_rows(model, sequence, prompt):
    """What leaves the last block: the prompt at once, then token by token."""
    forget_lengths(model)
    rows, cache = [], None
    with torch.no_grad():
        for piece in [sequence[:prompt], *([token] for token in sequence[prompt:])]:
            states, output = boundaries(blocks_of(model), lambda: model(torch.tensor([piece]), past_key_values=cache, use_cache=True))
            cache = output.past_key_values
            rows.append(states[-1][0])
    return torch.cat(rows)


def pack(hidden):
    return [torch.cat([states[i][0] for states in hidden]) for i in range(len(hidden[0]))]


def golden(name, config, lengths, targets):
    family, short_name = name.split('/')
    seed = f'{family}-golden/{short_name}'
    ids = token_ids(seed, lengths, config.get('vocab_size') or config['padded_vocab_size'])
    model = formula_model(seed, config)
    with torch.no_grad():
        logits, hidden = run_all(model, ids)
    result = {'name': name, 'seed': seed, 'config': config, 'shapes': {weight: list(value.shape) for weight, value in model.named_parameters()}, 'ids': ids,
              'hidden': [encode(rows) for rows in pack(hidden)], 'logits': encode(torch.cat(logits))}

    model = with_lora(model, R, ALPHA, targets)
    with torch.no_grad():
        for _, file_name, parameter in lora_parameters(model):
            parameter.copy_(formula_lora(seed, file_name, tuple(parameter.shape)))
    model.get_input_embeddings().weight.requires_grad_(True)  # so that the first block's input has a gradient too
    logits, hidden = run_all(model, ids)
    for states in hidden:
        for state in states:
            state.retain_grad()
    loss = sum(F.cross_entropy(rows[:-1], torch.tensor(sequence[1:]), reduction='sum') for rows, sequence in zip(logits, ids))
    loss.backward()
    gradients = [[state.grad for state in states] for states in hidden]
    prompt = DECODED.get(name)
    return {**result, 'lora': {'r': R, 'alpha': ALPHA, 'targets': targets}, 'loraLoss': loss.item(), 'loraLogits': encode(torch.cat(logits)),
            'loraHidden': [encode(rows) for rows in pack(hidden)], 'hiddenGradients': [encode(rows) for rows in pack(gradients)],
            'gradients': {short: encode(parameter.grad) for short, _, parameter in lora_parameters(model)},
            **({} if prompt is None else {'decoded': {'prompt': prompt, 'hidden': encode(decode_rows(model, ids[0], prompt))}})}


def formulas():
    shapes = {'model.embed_tokens.weight': (5, 3), 'model.norm.weight': (7,),
              'lm_head.weight': (3, 6), 'model.layers.0.self_attn.q_proj.bias': (4,)}
    lora_shapes = {'model.layers.0.self_attn.q_proj.lora_A': (2, 6), 'model.layers.1.mlp.down_proj.lora_B': (5, 3)}
    return {'seed': 'formula', 'weights': {name: encode(formula_weight('formula', name, shape)) for name, shape in shapes.items()},
            'lora': {name: encode(formula_lora('formula', f'{PEFT_PREFIX}{name}.weight', shape)) for name, shape in lora_shapes.items()}}


if __name__ == '__main__':
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for model_name in sys.argv[1:] or MODELS:
        write_json(HERE / f'{model_name}.json', golden(model_name, *MODELS[model_name]))
    write_json(HERE / 'formula.json', formulas())
