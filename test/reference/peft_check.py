"""Checks that PEFT loads adapters that Midspan exported, and computes what Midspan computes.

    python peft_check.py DIR...

Each DIR has base/, a Hugging Face model directory; adapter/, an adapter directory; and expected.json with `ids` (sequences of
token ids) and `logits`: either {"shape": [rows, vocab], "float32": base64} or nested lists, rows of all sequences in order.
Exits with 1 where a tensor of an adapter is missing or left over, or a logit differs by more than 1e-4 of the largest: with
the adapter beside the model, or merged into it.

It takes the PEFT that Python finds and says which: PYTHONPATH=SOURCES/src takes another than the installed one.
"""
import argparse
import json
import warnings
from pathlib import Path

import peft
import torch
import transformers
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

from chatglm2 import ChatGLM2
from chatglm_golden import ChatGLMModules
from common import decode

TOLERANCE = 1e-4
# PEFT's own of each kind of module: what comes from the adapter file is under its name for the adapter.
OWN = ['.lora_A.default', '.lora_B.default', '.modules_to_save.default']


def base_model(directory):
    config = json.loads((directory / 'config.json').read_text(encoding='utf-8'))
    if config['model_type'] == 'chatglm':
        weights = load_file(directory / 'model.safetensors')
        if 'position_encoding_2d' in config:
            return ChatGLMModules('130528' if 'mask_token_id' in config else '150528', config, weights)
        model = ChatGLM2(config)
        model.load_state_dict({name: value.float() for name, value in weights.items()})
        return model
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation='eager')


def with_adapter(model, directory):
    if isinstance(model, transformers.PreTrainedModel):
        return PeftModel.from_pretrained(model, directory)
    config = PeftConfig.from_pretrained(directory)
    config.task_type = None  # a causal model of PEFT's needs methods of transformers'
    return PeftModel.from_pretrained(model, directory, config=config)


def file_name(name):
    return name.replace('.modules_to_save.default', '').replace('.default', '')


def check_tensors(model, stored):
    parameters = {file_name(name): (name, value) for name, value in model.named_parameters() if '.original_module.' not in name}
    unknown = [name for name in stored if name not in parameters]
    missing = [name for name, (own, _) in parameters.items() if any(part in own for part in OWN) and name not in stored]
    if unknown or missing:
        raise SystemExit(f'the model lacks {unknown}, the adapter file {missing}')
    for name, value in stored.items():
        if not torch.equal(parameters[name][1].to(value.dtype), value):
            raise SystemExit(f'{name} was not loaded as it is stored')


def logits_of(model, ids):
    with torch.no_grad():
        outputs = [model(torch.tensor([sequence]), use_cache=False) for sequence in ids]
    return torch.cat([(output if isinstance(output, torch.Tensor) else output.logits)[0] for output in outputs])


def check_logits(what, actual, expected):
    if actual.shape != expected.shape:
        raise SystemExit(f'PEFT gives logits of shape {list(actual.shape)}, expected are {list(expected.shape)}')
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    if not error <= TOLERANCE:
        raise SystemExit(f'{what} the logits differ by {error:.2e} of the largest, more than {TOLERANCE}')
    return error


def check(directory):
    """The largest difference of the logits, beside the model and merged; and how much the adapter changes them."""
    expected = json.loads((directory / 'expected.json').read_text(encoding='utf-8'))
    logits = expected['logits']
    logits = decode(logits) if isinstance(logits, dict) else torch.tensor(logits)
    base = base_model(directory / 'base').eval()
    change = ((logits - logits_of(base, expected['ids'])).abs().max() / logits.abs().max()).item()
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # PEFT only warns of missing tensors and unknown settings
        model = with_adapter(base, directory / 'adapter').eval()
    stored = load_file(directory / 'adapter' / 'adapter_model.safetensors')
    check_tensors(model, stored)
    beside = check_logits('beside the model', logits_of(model, expected['ids']), logits)
    merged = check_logits('merged', logits_of(model.merge_and_unload(), expected['ids']), logits)
    print(f'{directory.name}: {len(stored)} tensors, which change logits by {change:.2f} of the largest; off by {beside:.1e} beside the model, {merged:.1e} merged')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('directories', metavar='DIR', nargs='+', type=Path)
    directories = parser.parse_args().directories
    print(f'peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}')
    for directory in directories:
        try:
            check(directory)
        except SystemExit as error:
            raise SystemExit(f'{directory.name}: {error}') from None


if __name__ == '__main__':
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    main()
