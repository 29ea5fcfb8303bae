"""Checks that PEFT loads an adapter that Midspan exported, and computes what Midspan computes.

    python peft_check.py BASE ADAPTER EXPECTED.json

BASE is a Hugging Face model directory, ADAPTER an adapter directory, and EXPECTED.json holds `ids` (sequences of token
ids) and `logits`: either {"shape": [rows, vocab], "float32": base64} or nested lists, rows of all sequences in order.
Exits with 1 where a tensor of the adapter is missing or left over, or a logit differs by more than 1e-4 of the largest.
"""
import argparse
import json
import warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from common import decode, lora_parameters

TOLERANCE = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('base')
    parser.add_argument('adapter')
    parser.add_argument('expected')
    arguments = parser.parse_args()
    with open(arguments.expected, encoding='utf-8') as file:
        expected = json.load(file)
    logits = expected['logits']
    logits = decode(logits) if isinstance(logits, dict) else torch.tensor(logits)

    model = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32, attn_implementation='eager')
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # PEFT only warns of missing tensors and unknown settings
        model = PeftModel.from_pretrained(model, arguments.adapter).eval()
    stored = load_file(f'{arguments.adapter}/adapter_model.safetensors')
    used = {file_name: parameter for _, file_name, parameter in lora_parameters(model)}
    if stored.keys() != used.keys():
        raise SystemExit(f'the adapter file and the model differ in {sorted(stored.keys() ^ used.keys())}')
    for name, value in stored.items():
        if not torch.equal(used[name], value):
            raise SystemExit(f'{name} was not loaded as it is stored')

    with torch.no_grad():
        actual = torch.cat([model(torch.tensor([sequence]), use_cache=False).logits[0] for sequence in expected['ids']])
    if actual.shape != logits.shape:
        raise SystemExit(f'PEFT gives logits of shape {list(actual.shape)}, expected are {list(logits.shape)}')
    error = ((actual - logits).abs().max() / logits.abs().max()).item()
    print(f'{len(stored)} tensors loaded; largest difference of the logits: {error:.2e} of the largest')
    if not error <= TOLERANCE:
        raise SystemExit(f'more than {TOLERANCE}')


if __name__ == '__main__':
    main()
