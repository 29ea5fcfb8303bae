"""Writes peft-adapter/: an adapter directory as PEFT saves it, and peft.json: the logits that PEFT gives with it.

    python peft_golden.py

The base model is llama/gqa.json's, by formula; the adapter's weights are by formula too, under a seed of their own.
"""
import tempfile
from pathlib import Path

import torch
from peft import PeftModel

from common import HERE, encode, formula_lora, formula_model, lora_parameters, token_ids, with_lora, write_json
from models import LENGTHS, MODELS

BASE = 'gqa'
SEED = 'peft-golden'
LORA = {'r': 3, 'alpha': 6, 'targets': ['q_proj', 'v_proj', 'down_proj']}
FILES = ['adapter_config.json', 'adapter_model.safetensors']


def main():
    base_seed, config = f'llama-golden/{BASE}', MODELS[f'llama/{BASE}'][0]
    model = with_lora(formula_model(base_seed, config), LORA['r'], LORA['alpha'], LORA['targets'])
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

    ids = token_ids(SEED, LENGTHS, config['vocab_size'])
    loaded = PeftModel.from_pretrained(formula_model(base_seed, config), target).eval()
    with torch.no_grad():
        logits = torch.cat([loaded(torch.tensor([sequence]), use_cache=False).logits[0] for sequence in ids])
    write_json(HERE / 'peft.json', {
        'base': BASE, 'seed': SEED, 'lora': LORA, 'ids': ids, 'logits': encode(logits),
        'shapes': {short: list(parameter.shape) for short, _, parameter in lora_parameters(loaded)}})


if __name__ == '__main__':
    torch.set_num_threads(1)
    main()
