"""Writes merged.json: weights of llama/gqa.json's model after PEFT merged peft-adapter/ into it (merge_and_unload).

    python merge_golden.py

In float32, in float32 with the adapter rank-stabilised, and in bfloat16, of one block: `float32`, `rslora`, `bfloat16`.
"""
import torch
from peft import LoraConfig, PeftModel

from common import HERE, encode, formula_model, write_json
from models import MODELS
from peft_golden import BASE, LORA

LAYER = 1


def merged(dtype, use_rslora):
    config = LoraConfig.from_pretrained(HERE / 'peft-adapter')
    config.use_rslora = use_rslora
    model = PeftModel.from_pretrained(formula_model(f'llama-golden/{BASE}', MODELS[f'llama/{BASE}'][0]).to(dtype), HERE / 'peft-adapter', config=config)
    state = model.merge_and_unload().state_dict()
    names = [name for name in state if f'.layers.{LAYER}.' in name and name.split('.')[-2] in LORA['targets']]
    return {name: encode(state[name]) for name in names}


def main():
    write_json(HERE / 'merged.json', {'float32': merged(torch.float32, False), 'rslora': merged(torch.float32, True), 'bfloat16': merged(torch.bfloat16, False)})


if __name__ == '__main__':
    torch.set_num_threads(1)
    main()
