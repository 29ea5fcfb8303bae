"""Writes llama/*.json: hidden states, logits and LoRA gradients of small LLaMA models, by transformers and PEFT.

    python llama_golden.py

Per model: `config` (a config.json), `ids` (a ragged batch; each sequence is run alone, so no padding rule is involved),
`hidden` (at each block boundary, packed rows: entry i is what enters block i, the last what leaves the last block, before
the final norm) and `logits` of the base model; then with LoRA by formula (`lora`): `loraLoss` (cross-entropy of every next
token, summed), `loraHidden`, `loraLogits`, and the gradients of that sum for `hiddenGradients` and `gradients`.
"""
import torch
import torch.nn.functional as F

from common import (
    ALL_TARGETS, HERE, PEFT_PREFIX, encode, formula_llama, formula_lora, formula_weight, lora_parameters, signed_uniform, with_lora, write_json
)

BASE = {
    'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'vocab_size': 61, 'hidden_size': 32, 'intermediate_size': 56,
    'num_hidden_layers': 2, 'num_attention_heads': 4, 'num_key_value_heads': 4, 'max_position_embeddings': 64, 'rms_norm_eps': 1e-5,
    'rope_theta': 10000.0, 'hidden_act': 'silu', 'tie_word_embeddings': False, 'attention_bias': False, 'mlp_bias': False,
    'bos_token_id': 1, 'eos_token_id': 2, 'torch_dtype': 'float32'
}


def v5(config, rope):
    """The same in the style that transformers 5 writes."""
    renamed = {key: value for key, value in config.items() if key not in ('rope_theta', 'torch_dtype')}
    return {**renamed, 'dtype': 'float32', 'rope_parameters': rope}


MODELS = {
    'plain': BASE,
    'gqa': {**BASE, 'num_key_value_heads': 2, 'num_hidden_layers': 3},
    'mqa-tied': {**BASE, 'num_key_value_heads': 1, 'tie_word_embeddings': True},
    'attention-bias': {**BASE, 'attention_bias': True, 'num_key_value_heads': 2},
    'mlp-bias': {**BASE, 'mlp_bias': True, 'attention_bias': True, 'tie_word_embeddings': True},
    'wide-heads': {**BASE, 'hidden_size': 40, 'num_key_value_heads': 2, 'head_dim': 16},
    'theta-500000': {**BASE, 'hidden_size': 48, 'num_key_value_heads': 2, 'rope_theta': 500000.0, 'rms_norm_eps': 1e-6},
    'rope-parameters': v5({**BASE, 'num_key_value_heads': 2, 'num_hidden_layers': 3}, {'rope_type': 'default', 'rope_theta': 500000.0}),
}
LENGTHS = {'plain': [7, 4], 'gqa': [9, 2, 5]}
DEFAULT_LENGTHS = [6, 11, 3]
LORA = {'r': 4, 'alpha': 8, 'targets': ALL_TARGETS}


def token_ids(seed, lengths, vocab):
    words = ((signed_uniform(f'{seed}/ids', sum(lengths)) + 1) / 2 * vocab).astype(int).tolist()
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [words[start:start + length] for start, length in zip(starts, lengths)]


def run(model, layers, ids):
    """Logits and hidden states of each sequence, the latter keeping their gradients."""
    logits, hidden = [], []
    for sequence in ids:
        states = []
        hooks = [layers[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))]
        hooks += [layer.register_forward_hook(lambda _, __, output: states.append(output)) for layer in layers]
        logits.append(model(torch.tensor([sequence]), use_cache=False).logits[0])
        for hook in hooks:
            hook.remove()
        hidden.append(states)
    return logits, hidden


def pack(hidden):
    return [torch.cat([states[i][0] for states in hidden]) for i in range(len(hidden[0]))]


def golden(name, config):
    seed = f'llama-golden/{name}'
    ids = token_ids(seed, LENGTHS.get(name, DEFAULT_LENGTHS), config['vocab_size'])
    model = formula_llama(seed, config)
    rope = config.get('rope_parameters', config)
    assert model.config.rope_parameters['rope_theta'] == rope['rope_theta']
    layers = model.model.layers
    with torch.no_grad():
        logits, hidden = run(model, layers, ids)
    result = {'name': name, 'seed': seed, 'config': config, 'ids': ids,
              'hidden': [encode(rows) for rows in pack(hidden)], 'logits': encode(torch.cat(logits))}

    model = with_lora(model, LORA['r'], LORA['alpha'], LORA['targets'])
    with torch.no_grad():
        for _, file_name, parameter in lora_parameters(model):
            parameter.copy_(formula_lora(seed, file_name, tuple(parameter.shape)))
    model.get_input_embeddings().weight.requires_grad_(True)  # so that the first block's input has a gradient too
    logits, hidden = run(model, layers, ids)
    for states in hidden:
        for state in states:
            state.retain_grad()
    loss = sum(F.cross_entropy(rows[:-1], torch.tensor(sequence[1:]), reduction='sum') for rows, sequence in zip(logits, ids))
    loss.backward()
    gradients = [[state.grad for state in states] for states in hidden]
    return {**result, 'lora': LORA, 'loraLoss': loss.item(), 'loraLogits': encode(torch.cat(logits)),
            'loraHidden': [encode(rows) for rows in pack(hidden)], 'hiddenGradients': [encode(rows) for rows in pack(gradients)],
            'gradients': {short: encode(parameter.grad) for short, _, parameter in lora_parameters(model)}}


if __name__ == '__main__':
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for model_name, model_config in MODELS.items():
        write_json(HERE / 'llama' / f'{model_name}.json', golden(model_name, model_config))
    names = ['model.embed_tokens.weight', 'model.norm.weight', 'lm_head.weight', 'model.layers.0.self_attn.q_proj.bias']
    shapes = [(5, 3), (7,), (3, 6), (4,)]
    lora_shapes = {'0.self_attn.q_proj.lora_A': (2, 6), '1.mlp.down_proj.lora_B': (5, 3)}
    write_json(HERE / 'formula.json', {
        'seed': 'formula', 'weights': {name: encode(formula_weight('formula', name, shape)) for name, shape in zip(names, shapes)},
        'lora': {name: encode(formula_lora('formula', f'{PEFT_PREFIX}model.layers.{name}.weight', shape)) for name, shape in lora_shapes.items()}})
