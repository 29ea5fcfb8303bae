"""Writes peft-adapter/: an adapter directory as PEFT saves it, and peft.json: the logits that PEFT gives with it.

    python peft_golden.py

The base model is llama/gqa.json's, by formula; the adapter's weights are by formula too, under a seed of their own.
"""
import tempfile
from pathlib import Path

import torch
from peft import PeftModel

from common import HERE, encode, formula_llama, formula_lora, lora_parameters, with_lora, write_json
from llama_golden import DEFAULT_LENGTHS, MODELS, token_ids

BASE = 'gqa'
SEED = 'peft-golden'
LORA = {'r': 3, 'alpha': 6, 'targets': ['q_proj', 'v_proj', 'down_proj']}
FILES = ['adapter_config.json', 'adapter_model.safetensors']


def main():
    base_seed = f'llama-golden/{BASE}'
    model = with_lora(formula_llama(base_seed, MODELS[BASE]), LORA['r'], LORA['alpha'], LORA['targets'])
    with torch.no_grad():
        for _, file_name, parameter in lora_parameters(model):
            parameter.copy_(formula_lora(SEED, file_name, tuple(parameter.shape)))
    settings = model.peft_config['default']
    settings.base_model_name_or_path, settings.target_modules = f'midspan/{BASE}', LORA['targets']  # a set has no order
    target = HERE / 'peft-adapter'
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory, save_embedding_layers=False)  # which 'auto' looks up by the base's name
        for name in FILES:  # and not the model card
            (target / name).write_bytes((Path(directory) / name).read_bytes())

    ids = token_ids(SEED, DEFAULT_LENGTHS, MODELS[BASE]['vocab_size'])
    loaded = PeftModel.from_pretrained(formula_llama(base_seed, MODELS[BASE]), target).eval()
    with torch.no_grad():
        logits = torch.cat([loaded(torch.tensor([sequence]), use_cache=False).logits[0] for sequence in ids])
    write_json(HERE / 'peft.json', {
        'base': BASE, 'seed': SEED, 'lora': LORA, 'ids': ids, 'logits': encode(logits),
        'shapes': {short: list(parameter.shape) for short, _, parameter in lora_parameters(loaded)}})


if __name__ == '__main__':
    torch.set_num_threads(1)
    main()
