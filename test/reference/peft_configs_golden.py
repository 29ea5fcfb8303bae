"""Writes peft-configs.json: the configurations that PEFT saves for its kinds of LoRA, and which of them are plain LoRA.

    python peft_configs_golden.py

`plain` is measured where PEFT makes an adapter without preparation: whether the base's weights stay as they are, and whether the module
computes W x + scale B A x. Where it takes preparation (CorDA, LoRA-GA, LoftQ, EVA), it follows PEFT's documentation.
"""
import json

import torch
from peft import LoraConfig, get_peft_model
import peft

from common import HERE

R = 4


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.q_proj = torch.nn.Linear(16, 16, bias=False)

    def forward(self, x):
        return self.q_proj(x)


def measured(settings):
    net = Net()
    before = net.q_proj.weight.detach().clone()
    model = get_peft_model(net, LoraConfig(r=R, lora_alpha=8, target_modules=['q_proj'], **settings)).eval()
    layer = model.base_model.model.q_proj
    weight = layer.get_base_layer().weight
    if not torch.allclose(weight, before, atol=1e-6):
        return False
    x = torch.randn(3, 16)
    a, b = layer.lora_A['default'].weight, layer.lora_B['default'].weight
    return torch.allclose(model(x), x @ (before + layer.scaling['default'] * b @ a).T, atol=1e-5)


def saved(settings):
    config = LoraConfig(r=R, lora_alpha=8, target_modules=['q_proj'], base_model_name_or_path='base', **settings).to_dict()
    config['target_modules'] = sorted(config['target_modules'])
    config.pop('runtime_config', None)
    return json.loads(json.dumps(config, default=lambda value: getattr(value, '__dict__', str(value))))


def main():
    kinds = {}
    for init in [True, False, 'gaussian', 'orthogonal', 'mica', 'pissa', 'pissa_niter_4', 'olora']:
        settings = {'init_lora_weights': init}
        kinds[f'init {init}'] = {'config': saved(settings), 'plain': measured(settings)}
    for init, plain, extra in [('eva', True, 'EvaConfig'), ('corda', False, 'CordaConfig'), ('lora_ga', False, 'LoraGAConfig')]:
        config = getattr(peft, extra, None) or getattr(peft.tuners.lora.config, extra)
        settings = {'init_lora_weights': init, f'{init}_config': config()}
        kinds[f'init {init}'] = {'config': saved(settings), 'plain': plain}
    kinds['init loftq'] = {'config': {**saved({}), 'init_lora_weights': 'loftq', 'loftq_config': {'loftq_bits': 4, 'loftq_iter': 1}},
                           'plain': False}
    (HERE / 'peft-configs.json').write_text(json.dumps({'peft': peft.__version__, 'kinds': kinds}, separators=(',', ':')) + '\n')


if __name__ == '__main__':
    main()
