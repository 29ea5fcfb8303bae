"""Writes trainable.json: gradients of adapters, biases and whole blocks that are trained together, by PEFT and PyTorch.

    python trainable_golden.py

A LLaMA of three blocks with every bias. Blocks 0 and 2 have adapters by formula; block 1 has none, and its own weights are
trained. `shapes` are those of the base's weights; `gradients` of the summed cross-entropy of every next token: of the adapters by Midspan's names, and by their names
in the checkpoint of all biases and of block 1's weights. `biases` lists those that PEFT trains with each of its settings, `saved` the names that it saves them under.
"""
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

from common import HERE, PEFT_PREFIX, encode, formula_lora, formula_model, lora_parameters, token_ids, write_json
from models import LLAMA

SEED = 'trainable-golden'
CONFIG = {**LLAMA, 'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 3, 'num_attention_heads': 2, 'num_key_value_heads': 1,
          'attention_bias': True, 'mlp_bias': True}
LORA = {'r': 2, 'alpha': 4, 'targets': ['q_proj', 'down_proj']}
WHOLE = 1
LENGTHS = [7, 3, 9]


def wrapped(bias):
    config = LoraConfig(r=LORA['r'], lora_alpha=LORA['alpha'], target_modules=LORA['targets'], layers_to_transform=[0, 2], bias=bias, task_type='CAUSAL_LM')
    return get_peft_model(formula_model(SEED, CONFIG), config, autocast_adapter_dtype=False)


def checkpoint_name(name):
    return name.removeprefix(PEFT_PREFIX).replace('.base_layer', '')


def main():
    biases = {bias: [checkpoint_name(name) for name, parameter in wrapped(bias).named_parameters() if parameter.requires_grad and name.endswith('.bias')]
              for bias in ['none', 'lora_only', 'all']}
    saved = {bias: [name for name in get_peft_model_state_dict(wrapped(bias), save_embedding_layers=False) if name.endswith('.bias')] for bias in biases}
    model = wrapped('all')
    shapes = {name: list(value.shape) for name, value in formula_model(SEED, CONFIG).named_parameters()}
    with torch.no_grad():
        for _, file_name, parameter in lora_parameters(model):
            parameter.copy_(formula_lora(SEED, file_name, tuple(parameter.shape)))
    own = {checkpoint_name(name): parameter for name, parameter in model.named_parameters()
           if '.lora_' not in name and '.layers.' in name and (f'.layers.{WHOLE}.' in name or name.endswith('.bias'))}
    for parameter in own.values():
        parameter.requires_grad_(True)
    ids = token_ids(SEED, LENGTHS, CONFIG['vocab_size'])
    loss = sum(F.cross_entropy(model(torch.tensor([sequence]), use_cache=False).logits[0, :-1], torch.tensor(sequence[1:]), reduction='sum') for sequence in ids)
    loss.backward()
    gradients = {short: parameter.grad for short, _, parameter in lora_parameters(model)} | {name: parameter.grad for name, parameter in own.items()}
    write_json(HERE / 'trainable.json', {
        'seed': SEED, 'config': CONFIG, 'shapes': shapes, 'lora': LORA, 'whole': WHOLE, 'ids': ids, 'loss': loss.item(), 'biases': biases, 'saved': saved,
        'gradients': {name: encode(gradient) for name, gradient in gradients.items()}})


if __name__ == '__main__':
    torch.manual_seed(0)
    torch.set_num_threads(1)
    main()
