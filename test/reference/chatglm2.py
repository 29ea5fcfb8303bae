"""ChatGLM2-6B and ChatGLM3-6B in PyTorch, written for these tests from the published formulas.

transformers no longer runs these models' own code, so this is an implementation of its own: RMSNorm before attention and
MLP, grouped-query attention behind one fused projection (all queries, then all keys, then all values), SwiGLU behind another
(gates, then values), and rotary positions on the first half of each head, in neighbouring pairs, with the base 10000 *
rope_ratio; or, in ChatGLM2-6B-32K, with the base 10000 and positions divided by rope_ratio (position interpolation,
https://arxiv.org/abs/2306.15595). Modules have the names that the checkpoints have. `python chatglm2.py` holds it to transformers' GlmForCausalLM,
which computes the same with other names.
"""
import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, size, epsilon):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(size)), epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon)


def rotations(config):
    """The base of the rotations, and what positions are divided by."""
    ratio = config.get('rope_ratio', 1)
    return (10000.0, ratio) if 'chatglm2' in config.get('_name_or_path', '') else (10000.0 * ratio, 1)


def rotated(x, base, stretch):
    """x [batch, heads, seq, size]: the first half of each head turns by its position, in neighbouring pairs."""
    size = x.shape[-1] // 2
    frequencies = 1 / base ** (torch.arange(0, size, 2, dtype=x.dtype) / size)
    angles = torch.outer(torch.arange(x.shape[2], dtype=x.dtype) / stretch, frequencies)
    turning = torch.view_as_complex(x[..., :size].unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(turning * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    return torch.cat([turned, x[..., size:]], dim=-1)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.size, self.heads, self.groups = config['kv_channels'], config['num_attention_heads'], config['multi_query_group_num']
        self.rotations = rotations(config)
        hidden, bias = config['hidden_size'], config['add_bias_linear']
        self.query_key_value = nn.Linear(hidden, self.size * (self.heads + 2 * self.groups), bias=bias or config['add_qkv_bias'])
        self.dense = nn.Linear(self.size * self.heads, hidden, bias=bias)

    def forward(self, x):
        parts = self.query_key_value(x).split([self.size * count for count in (self.heads, self.groups, self.groups)], dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.size)).transpose(1, 2) for part in parts)
        q, k = rotated(q, *self.rotations), rotated(k, *self.rotations)
        k, v = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (k, v))
        scores = q @ k.transpose(2, 3) * self.size**-0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ v
        return self.dense(mixed.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, inner, bias = config['hidden_size'], config['ffn_hidden_size'], config['add_bias_linear']
        self.dense_h_to_4h = nn.Linear(hidden, 2 * inner, bias=bias)
        self.dense_4h_to_h = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x):
        gate, up = self.dense_h_to_4h(x).chunk(2, dim=-1)
        return self.dense_4h_to_h(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config['hidden_size'], config['layernorm_epsilon'])
        self.self_attention = Attention(config)
        self.post_attention_layernorm = RMSNorm(config['hidden_size'], config['layernorm_epsilon'])
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.self_attention(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config['num_layers']))
        self.final_layernorm = RMSNorm(config['hidden_size'], config['layernorm_epsilon'])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.final_layernorm(x)


class ChatGLM2(nn.Module):
    """ids [batch, seq] to logits [batch, seq, vocabulary]."""

    def __init__(self, config):
        super().__init__()
        embedding = nn.Embedding(config['padded_vocab_size'], config['hidden_size'])
        self.transformer = nn.ModuleDict({
            'embedding': nn.ModuleDict({'word_embeddings': embedding}),
            'encoder': Encoder(config),
            'output_layer': nn.Linear(config['hidden_size'], config['padded_vocab_size'], bias=False)
        })

    def get_input_embeddings(self):
        return self.transformer['embedding']['word_embeddings']

    def forward(self, ids, use_cache=False):
        return self.transformer['output_layer'](self.transformer['encoder'](self.get_input_embeddings()(ids)))


def as_glm(config, weights):
    """The same model in transformers' terms: configuration and weights of a GlmForCausalLM."""
    heads, groups, size = config['num_attention_heads'], config['multi_query_group_num'], config['kv_channels']
    base, stretch = rotations(config)
    settings = {
        'vocab_size': config['padded_vocab_size'], 'hidden_size': config['hidden_size'], 'intermediate_size': config['ffn_hidden_size'],
        'num_hidden_layers': config['num_layers'], 'num_attention_heads': heads, 'num_key_value_heads': groups, 'head_dim': size,
        'rms_norm_eps': config['layernorm_epsilon'], 'attention_bias': config['add_qkv_bias'], 'pad_token_id': None,
        'max_position_embeddings': config['seq_length'],
        'rope_parameters': {'rope_type': 'linear', 'factor': float(stretch), 'rope_theta': base, 'partial_rotary_factor': 0.5}
    }
    names = {
        'transformer.embedding.word_embeddings': 'model.embed_tokens', 'transformer.output_layer': 'lm_head', 'transformer.encoder.final_layernorm': 'model.norm',
        'transformer.encoder.': 'model.', 'self_attention.dense': 'self_attn.o_proj', 'dense_h_to_4h': 'gate_up_proj', 'dense_4h_to_h': 'down_proj'
    }
    renamed = {}
    for name, value in weights.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if 'query_key_value' in name:
            for part, rows in zip('qkv', value.split([size * heads, size * groups, size * groups])):
                renamed[name.replace('self_attention.query_key_value', f'self_attn.{part}_proj')] = rows
        else:
            renamed[name] = value
    return settings, renamed


def check(config):
    """The largest difference of the logits from transformers', relative to the largest."""
    from transformers import GlmConfig, GlmForCausalLM

    model = ChatGLM2(config).double()
    settings, weights = as_glm(config, model.state_dict())
    glm = GlmForCausalLM(GlmConfig(**settings))
    glm.load_state_dict({name: value.float() for name, value in weights.items()})
    ids = torch.randint(config['padded_vocab_size'], (2, 24))
    ours, theirs = model(ids), glm(ids).logits
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


if __name__ == '__main__':
    torch.manual_seed(0)
    from models import MODELS
    for name, (config, *_) in MODELS.items():
        if name.startswith('chatglm2/') and not config['add_bias_linear']:
            print(f'{name}: {check(config):.1e} from GlmForCausalLM')
