"""Writes chatglm/*.json: what the original ChatGLM-6B computes, by an independent implementation of its published formulas.

    python chatglm_golden.py

transformers no longer carries this model and none of its code is used here: the forward pass below is written from the formulas of
GLM (https://arxiv.org/abs/2103.10360, https://arxiv.org/abs/2210.02414) and the model's published description, in plain PyTorch and
float64. The released code differs in its float16 alone: there scores are divided by layer + 1 and multiplied back, and masked by -10000
instead of -infinity. Its blocks, put into float64, give the hidden states of these within 4e-8.

There is a model of each vocabulary revision. Both clamp the first position of what follows the context to the mask token's; the
150528 one, for [gMASK], counts on instead where it reads a whole sequence, and clamps all but the first token while it generates.

Per model: `config`; `shapes` of its weights; `ids`, sequences of `text [gMASK] sop answer eop`, or with a [MASK] within the text (a ragged batch; each is run
alone); `contexts` of each (`contextLength`, `maskPosition`, and row 0 of the positions of its inputs); with `ids[:-1]` as inputs,
`hidden` at every block boundary and `logits` of the base model; then with LoRA by formula: `loraHidden`, `loraLogits`, `loraLoss` (of the
answers and their eop, summed), and its gradients; `greedy`, the ids that follow each prompt; and `training`: 50 AdamW steps.
"""
import math

import torch
import torch.nn.functional as F

from common import HERE, PEFT_PREFIX, encode, formula_lora, formula_weight, signed_uniform, write_json

BASE = {
    'architectures': ['ChatGLMForConditionalGeneration'], 'model_type': 'chatglm', 'vocab_size': 112, 'hidden_size': 32,
    'inner_hidden_size': 72, 'num_layers': 3, 'num_attention_heads': 2, 'layernorm_epsilon': 1e-5, 'max_sequence_length': 64,
    'position_encoding_2d': True, 'bos_token_id': 104, 'eos_token_id': 105, 'pad_token_id': 3, 'torch_dtype': 'float32'
}
# The configurations of the older revision do not name the mask tokens: they stand four and three before bos in both.
MODELS = {'130528': {**BASE, 'mask_token_id': 100, 'gmask_token_id': 101}, '150528': BASE}
MASK, GMASK, WORDS = 100, 101, 96
TARGETS = {'attention.query_key_value': ('hidden', '3*hidden'), 'attention.dense': ('hidden', 'hidden'),
           'mlp.dense_h_to_4h': ('hidden', 'inner'), 'mlp.dense_4h_to_h': ('inner', 'hidden')}
LORA = {'r': 4, 'alpha': 8, 'targets': [name.split('.')[-1] for name in TARGETS]}
# Words before and after [MASK], or before [gMASK], and words of the answer.
PROMPTS = [('gmask', 5, 0, 4), ('mask', 3, 4, 6), ('gmask', 0, 0, 3), ('gmask', 9, 0, 1), ('mask', 0, 2, 5), ('mask', 6, 0, 2)]
GOLDEN_SEQUENCES, NEW_TOKENS = 4, 8
ADAMW = {'lr': 1e-3, 'betas': [0.9, 0.999], 'eps': 1e-8, 'weightDecay': 0.01}
STEPS, SEQUENCES_PER_STEP = 50, 2


def sequences(seed, config):
    """Sequences of ids, bos (sop) and eos (eop) included."""
    result = []
    for i, (kind, before, after, answer) in enumerate(PROMPTS):
        words = ((signed_uniform(f'{seed}/ids/{i}', before + after + answer) + 1) / 2 * WORDS).astype(int).tolist()
        mask = [GMASK] if kind == 'gmask' else [MASK]
        context = words[:before] + mask + words[before:before + after]
        result.append(context + [config['bos_token_id']] + words[before + after:] + [config['eos_token_id']])
    return result


class ChatGLM:
    """The formulas, on parameters by their names in a checkpoint; `lora` by `layer.module.lora_A` and `.lora_B`."""

    def __init__(self, revision, config, seed):
        self.revision, self.config = revision, config
        self.hidden, self.heads, self.layers = config['hidden_size'], config['num_attention_heads'], config['num_layers']
        self.sizes = {'hidden': self.hidden, '3*hidden': 3 * self.hidden, 'inner': config['inner_hidden_size']}
        self.lora = {}
        self.weights = {name: formula_weight(seed, name, shape).double() for name, shape in self.shapes()}

    def shapes(self):
        h = self.hidden
        yield 'transformer.word_embeddings.weight', (self.config['vocab_size'], h)
        for layer in range(self.layers):
            prefix = f'transformer.layers.{layer}.'
            for norm in ('input_layernorm', 'post_attention_layernorm'):
                yield f'{prefix}{norm}.weight', (h,)
                yield f'{prefix}{norm}.bias', (h,)
            for module, (inputs, outputs) in TARGETS.items():
                yield f'{prefix}{module}.weight', (self.sizes[outputs], self.sizes[inputs])
                yield f'{prefix}{module}.bias', (self.sizes[outputs],)
        yield 'transformer.final_layernorm.weight', (h,)
        yield 'transformer.final_layernorm.bias', (h,)
        yield 'lm_head.weight', (self.config['vocab_size'], h)

    def lora_shapes(self):
        for layer in range(self.layers):
            for module, (inputs, outputs) in TARGETS.items():
                yield f'{layer}.{module}.lora_A', (LORA['r'], self.sizes[inputs])
                yield f'{layer}.{module}.lora_B', (self.sizes[outputs], LORA['r'])

    def add_lora(self, seed):
        self.lora = {name: formula_lora(seed, f'{PEFT_PREFIX}transformer.layers.{name}.weight', shape).double().requires_grad_()
                     for name, shape in self.lora_shapes()}

    def context(self, ids):
        """How many ids the context has (bos not among them), and where its mask token is."""
        length = ids.index(self.config['bos_token_id'])
        return length, ids.index(MASK if MASK in ids[:length] else GMASK)

    def positions(self, ids, prompt_length=None):
        """Both rows. With a prompt length, what follows it was generated, one token after another."""
        length = len(ids)
        context, mask = self.context(ids)
        first = torch.arange(length)
        clamped_from = context
        if self.revision == '150528' and ids[mask] == GMASK:
            clamped_from = length if prompt_length is None else prompt_length
        first[clamped_from:] = mask
        second = torch.cat([torch.zeros(context, dtype=torch.long), torch.arange(1, length - context + 1)])
        return first, second

    def visible(self, ids):
        """[query, key]: everything before, and the whole context for everyone."""
        context, _ = self.context(ids)
        visible = torch.ones(len(ids), len(ids)).tril()
        visible[:, :context] = 1
        return visible.bool()

    def linear(self, layer, module, x):
        name = f'transformer.layers.{layer}.{module}'
        y = x @ self.weights[f'{name}.weight'].T + self.weights[f'{name}.bias']
        if f'{layer}.{module}.lora_A' not in self.lora:
            return y
        a, b = self.lora[f'{layer}.{module}.lora_A'], self.lora[f'{layer}.{module}.lora_B']
        return y + LORA['alpha'] / LORA['r'] * (x @ a.T) @ b.T

    def norm(self, name, x):
        centered = x - x.mean(-1, keepdim=True)
        normalized = centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + self.config['layernorm_epsilon'])
        return normalized * self.weights[f'{name}.weight'] + self.weights[f'{name}.bias']

    def attend(self, layer, x, positions, visible):
        rows, size = x.shape[0], self.hidden // self.heads
        # Of each head in turn: its query, its key, its value.
        fused = self.linear(layer, 'attention.query_key_value', x).view(rows, self.heads, 3, size)
        q, k, v = fused.unbind(2)
        half = size // 2
        q, k = (torch.cat([turn(part[..., :half], positions[0]), turn(part[..., half:], positions[1])], -1) for part in (q, k))
        scores = torch.einsum('qhd,khd->hqk', q, k) / math.sqrt(size)
        weights = scores.masked_fill(~visible, -math.inf).softmax(-1)
        return self.linear(layer, 'attention.dense', torch.einsum('hqk,khd->qhd', weights, v).reshape(rows, self.hidden))

    def block(self, layer, hidden, positions, visible):
        alpha = math.sqrt(2 * self.layers)
        name = f'transformer.layers.{layer}'
        x = self.norm(f'{name}.input_layernorm', hidden)
        middle = alpha * x + self.attend(layer, x, positions, visible)
        y = self.norm(f'{name}.post_attention_layernorm', middle)
        inner = gelu(self.linear(layer, 'mlp.dense_h_to_4h', y))
        return alpha * y + self.linear(layer, 'mlp.dense_4h_to_h', inner)

    def run(self, ids, prompt_length=None):
        """Logits [len(ids), vocab] and the hidden states at every block boundary."""
        positions, visible = self.positions(ids, prompt_length), self.visible(ids)
        states = [self.weights['transformer.word_embeddings.weight'][torch.tensor(ids)]]
        if self.lora:
            states[0].requires_grad_()
        for layer in range(self.layers):
            states.append(self.block(layer, states[-1], positions, visible))
        return self.norm('transformer.final_layernorm', states[-1]) @ self.weights['lm_head.weight'].T, states

    def loss(self, logits, ids):
        """Of the answer and its eop, summed; `logits` are of ids[:-1]."""
        context, _ = self.context(ids)
        return F.cross_entropy(logits[context:], torch.tensor(ids[context + 1:]), reduction='sum')


class ChatGLMModules(torch.nn.Module):
    """The formulas with their linear layers and norms as modules, under the checkpoint's names, so that PEFT finds them: ids [1, seq] to
    logits [1, seq, vocab]. `weights` by their names; everything is computed in float64."""

    def __init__(self, revision, config, weights):
        super().__init__()
        self.formulas = ChatGLM(revision, config, 'of the shapes alone')
        self.formulas.weights = weights = {name: value.double() for name, value in weights.items()}
        self.formulas.linear = lambda layer, module, x: self.get_submodule(f'transformer.layers.{layer}.{module}')(x)
        self.formulas.norm = lambda name, x: self.get_submodule(name)(x)
        for path in [name.removesuffix('.bias') for name in weights if name.endswith('.bias')]:
            weight, bias = weights[f'{path}.weight'], weights[f'{path}.bias']
            module = torch.nn.LayerNorm(len(bias), config['layernorm_epsilon']) if 'layernorm' in path else torch.nn.Linear(*reversed(weight.shape))
            module.load_state_dict({'weight': weight, 'bias': bias})
            self.place(path, module.double())

    def place(self, path, module):
        *parents, name = path.split('.')
        parent = self
        for step in parents:
            if step not in dict(parent.named_children()):
                parent.add_module(step, torch.nn.Module())
            parent = parent.get_submodule(step)
        parent.add_module(name, module)

    def forward(self, ids, use_cache=False):
        return self.formulas.run(ids[0].tolist())[0][None]


def turn(x, positions):
    """x [rows, heads, size] turned by its position: element j pairs with j + size / 2, at the angle position * 10000^(-2j / size)."""
    half = x.shape[-1] // 2
    angles = positions[:, None, None].double() * 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def greedy(model, ids):
    """The most likely ids after a prompt, one full pass each."""
    prompt = ids[:model.context(ids)[0] + 1]
    grown = list(prompt)
    for _ in range(NEW_TOKENS):
        logits, _ = model.run(grown, len(prompt))
        best, second = logits[-1].topk(2).values.tolist()
        assert best - second > 1e-3, 'a tie would be decided by rounding'
        grown.append(int(logits[-1].argmax()))
    return grown[len(prompt):]


def train(model, batch):
    """AdamW on the mean loss over the answers of two sequences a step, in turn."""
    optimizer = torch.optim.AdamW(model.lora.values(), lr=ADAMW['lr'], betas=ADAMW['betas'], eps=ADAMW['eps'], weight_decay=ADAMW['weightDecay'])
    losses = []
    for step in range(STEPS):
        first = step * SEQUENCES_PER_STEP % len(batch)
        chosen = batch[first:first + SEQUENCES_PER_STEP]
        loss = sum(model.loss(model.run(ids[:-1])[0], ids) for ids in chosen) / sum(len(ids) - 1 - model.context(ids)[0] for ids in chosen)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {'adamw': ADAMW, 'sequencesPerStep': SEQUENCES_PER_STEP, 'losses': losses,
            'final': {name: encode(value) for name, value in model.lora.items()}}


def pack(all_states):
    return [encode(torch.cat(rows)) for rows in zip(*all_states)]


def golden(revision, config):
    seed = f'chatglm-golden/{revision}'
    model = ChatGLM(revision, config, seed)
    batch = sequences(seed, config)
    ids = batch[:GOLDEN_SEQUENCES]
    contexts = [dict(zip(('contextLength', 'maskPosition', 'positions'), (*model.context(one), model.positions(one[:-1])[0].tolist()))) for one in batch]
    plain = [model.run(one[:-1]) for one in ids]
    result = {'name': f'chatglm/{revision}', 'seed': seed, 'config': config, 'shapes': dict(model.shapes()), 'ids': ids, 'contexts': contexts[:GOLDEN_SEQUENCES],
              'hidden': pack(states for _, states in plain), 'logits': encode(torch.cat([logits for logits, _ in plain])),
              'greedy': [greedy(model, one) for one in ids]}

    model.add_lora(seed)
    runs = [model.run(one[:-1]) for one in ids]
    for _, states in runs:
        for state in states:
            state.retain_grad()
    loss = sum(model.loss(logits, one) for (logits, _), one in zip(runs, ids))
    loss.backward()
    result |= {'lora': LORA, 'loraLoss': loss.item(), 'loraHidden': pack(states for _, states in runs),
               'loraLogits': encode(torch.cat([logits for logits, _ in runs])),
               'hiddenGradients': pack([state.grad for state in states] for _, states in runs),
               'gradients': {name: encode(value.grad) for name, value in model.lora.items()}}
    model.add_lora(seed)
    return {**result, 'training': {'ids': batch, **train(model, batch)}}


if __name__ == '__main__':
    torch.set_num_threads(1)
    for model_revision, model_config in MODELS.items():
        write_json(HERE / 'chatglm' / f'{model_revision}.json', golden(model_revision, model_config))
