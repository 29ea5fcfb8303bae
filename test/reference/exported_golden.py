"""Writes exported.json: what PEFT computes with an adapter that Midspan exported.

    node export_adapter.ts BASE       # writes BASE and exported-adapter/
    python exported_golden.py BASE
"""
import sys
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from common import HERE, encode, token_ids, write_json

LENGTHS = [23, 9, 31]


def main(base):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation='eager')
    ids = token_ids('exported', LENGTHS, model.config.vocab_size)
    with torch.no_grad():
        plain = torch.cat([model(torch.tensor([sequence]), use_cache=False).logits[0] for sequence in ids])
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # PEFT only warns of missing tensors and unknown settings
        model = PeftModel.from_pretrained(model, HERE / 'exported-adapter').eval()
    with torch.no_grad():
        logits = torch.cat([model(torch.tensor([sequence]), use_cache=False).logits[0] for sequence in ids])
    change = ((logits - plain).abs().max() / plain.abs().max()).item()
    print(f'the adapter changes logits by up to {change:.2f} of the largest')
    write_json(HERE / 'exported.json', {'ids': ids, 'logits': encode(logits), 'change': change})


if __name__ == '__main__':
    torch.set_num_threads(1)
    main(sys.argv[1])
