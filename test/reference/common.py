"""What the golden scripts share: tensors by formula, base64 float32, LoRA by PEFT under Midspan's names.

The formula makes every number from SHAKE-256 of a name, so that a golden file holds results alone and
test/helpers/golden.ts remakes the same weights bit for bit.
"""
import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model

from chatglm2 import ChatGLM2

HERE = Path(__file__).parent
ATTENTION = ['q_proj', 'k_proj', 'v_proj', 'o_proj']
PEFT_PREFIX = 'base_model.model.'


def signed_uniform(label, count):
    """`count` float64 in [-1, 1) with 24 random bits each."""
    words = np.frombuffer(hashlib.shake_256(label.encode()).digest(4 * count), '<u4')
    return 2 * ((words >> 8).astype(np.float64) / 2**24) - 1


def formula_weight(seed, name, shape):
    """A base weight: matrices keep the variance of their input, norms stay near 1."""
    values = signed_uniform(f'{seed}/{name}', int(np.prod(shape))).reshape(shape)
    if name.endswith('norm.weight'):
        values = 1 + 0.1 * values
    elif name.endswith('.bias'):
        values = 0.1 * values
    elif not name.endswith('embed_tokens.weight'):
        values = values * np.sqrt(3 / shape[-1])
    return torch.from_numpy(values.astype(np.float32))


def formula_lora(seed, peft_name, shape):
    """uniform(-1/sqrt(in), 1/sqrt(in)), `in` being the last dimension."""
    values = signed_uniform(f'{seed}/{peft_name}', int(np.prod(shape))).reshape(shape)
    return torch.from_numpy((values / np.sqrt(shape[-1])).astype(np.float32))


def token_ids(seed, lengths, vocab):
    words = ((signed_uniform(f'{seed}/ids', sum(lengths)) + 1) / 2 * vocab).astype(int).tolist()
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [words[start:start + length] for start, length in zip(starts, lengths)]


def formula_model(seed, config, attention='eager'):
    """The model of a config.json, with weights by formula, ready for exact comparison."""
    if config['model_type'] == 'chatglm':
        model = ChatGLM2(config)
    else:
        settings = transformers.CONFIG_MAPPING[config['model_type']](**config)
        model = getattr(transformers, config['architectures'][0])._from_config(settings, attn_implementation=attention, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(formula_weight(seed, name, tuple(parameter.shape)))
    return model.eval()


def blocks_of(model):
    """The blocks of a model, with LoRA or without."""
    return next(module for name, module in model.named_modules() if name.endswith('.layers'))


def logits_of(output):
    return output if isinstance(output, torch.Tensor) else output.logits


def with_lora(model, r, alpha, targets):
    task = {'task_type': 'CAUSAL_LM'} if isinstance(model, transformers.PreTrainedModel) else {}
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias='none', **task)
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def lora_parameters(peft_model):
    """(Midspan's name, the name in an adapter file, parameter), by layer, as PEFT lists them."""
    found = []
    for name, parameter in peft_model.named_parameters():
        if '.lora_' in name:
            file_name = name.replace('.default.', '.')
            short = file_name.split('.layers.', 1)[1].removesuffix('.weight')
            found.append((short, file_name, parameter))
    return found


def deviations(actual, expected):
    """(worst tensor by largest difference over largest magnitude, worst element by its own magnitude)."""
    def worst(f):
        return max(f(actual[name].double(), expected[name].double()).item() for name in expected)
    return {'tensor': worst(lambda a, b: (a - b).abs().max() / b.abs().max()),
            'norm': worst(lambda a, b: (a - b).norm() / b.norm()),
            'element': worst(lambda a, b: ((a - b).abs() / b.abs()).max())}


def encode(tensor):
    return {'shape': list(tensor.shape), 'float32': base64.b64encode(tensor.detach().to(torch.float32).contiguous().numpy().astype('<f4').tobytes()).decode()}


def decode(entry):
    values = np.frombuffer(base64.b64decode(entry['float32']), '<f4').reshape(entry['shape'])
    return torch.from_numpy(values.copy())


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(',', ':')) + '\n')
    print(f'{path.relative_to(HERE)}: {path.stat().st_size} bytes')
