"""The small models that golden files are made of: `family/name` to config.json, lengths of the sequences and LoRA targets."""

LLAMA = {
    'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'vocab_size': 61, 'hidden_size': 32, 'intermediate_size': 56,
    'num_hidden_layers': 2, 'num_attention_heads': 4, 'num_key_value_heads': 4, 'max_position_embeddings': 64, 'rms_norm_eps': 1e-5,
    'rope_theta': 10000.0, 'hidden_act': 'silu', 'tie_word_embeddings': False, 'attention_bias': False, 'mlp_bias': False,
    'bos_token_id': 1, 'eos_token_id': 2, 'torch_dtype': 'float32'
}


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


def v5(config, rope):
    """The same in the style that transformers 5 writes."""
    return {**without(config, 'rope_theta', 'torch_dtype'), 'dtype': 'float32', 'rope_parameters': rope}


GQA = {**LLAMA, 'num_key_value_heads': 2}
MISTRAL = {**without(GQA, 'attention_bias', 'mlp_bias'), 'architectures': ['MistralForCausalLM'], 'model_type': 'mistral', 'sliding_window': None}
QWEN2 = {
    **without(GQA, 'attention_bias', 'mlp_bias'), 'architectures': ['Qwen2ForCausalLM'], 'model_type': 'qwen2', 'rope_theta': 1000000.0, 'rms_norm_eps': 1e-6,
    'use_sliding_window': False, 'sliding_window': 4, 'max_window_layers': 1
}
QWEN3 = {**QWEN2, 'architectures': ['Qwen3ForCausalLM'], 'model_type': 'qwen3', 'head_dim': 16, 'attention_bias': False}
GLM = {
    **without(GQA, 'mlp_bias'), 'architectures': ['GlmForCausalLM'], 'model_type': 'glm', 'attention_bias': True, 'head_dim': 16, 'partial_rotary_factor': 0.5,
    'rms_norm_eps': 1.5625e-07, 'pad_token_id': 0
}
GLM4 = {**GLM, 'architectures': ['Glm4ForCausalLM'], 'model_type': 'glm4', 'rms_norm_eps': 1e-5}
CHATGLM2 = {
    'architectures': ['ChatGLMModel'], 'model_type': 'chatglm', 'num_layers': 2, 'padded_vocab_size': 61, 'hidden_size': 32, 'ffn_hidden_size': 56,
    'kv_channels': 8, 'num_attention_heads': 4, 'multi_query_attention': True, 'multi_query_group_num': 2, 'seq_length': 64, 'layernorm_epsilon': 1e-5,
    'rmsnorm': True, 'add_bias_linear': False, 'add_qkv_bias': True, 'apply_residual_connection_post_layernorm': False, 'post_layer_norm': True,
    'apply_query_key_layer_scaling': True, 'attention_softmax_in_fp32': True, 'fp32_residual_connection': False, 'bias_dropout_fusion': True,
    'original_rope': True, 'pre_seq_len': None, 'prefix_projection': False, 'quantization_bit': 0, 'tie_word_embeddings': False,
    'eos_token_id': 2, 'pad_token_id': 0, 'torch_dtype': 'float16'
}

LENGTHS = [6, 11, 3]
LONG = [22, 17, 3]
SPLIT = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
FUSED_MLP = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_up_proj', 'down_proj']
FUSED = ['query_key_value', 'dense', 'dense_h_to_4h', 'dense_4h_to_h']
TARGETS = {'llama': SPLIT, 'mistral': SPLIT, 'qwen2': SPLIT, 'qwen3': SPLIT, 'glm': FUSED_MLP, 'glm4': FUSED_MLP, 'chatglm2': FUSED}
LLAMA3 = {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0, 'original_max_position_embeddings': 16}

CONFIGS = {
    'llama/plain': (LLAMA, [7, 4]),
    'llama/gqa': ({**GQA, 'num_hidden_layers': 3}, [9, 2, 5]),
    'llama/mqa-tied': {**LLAMA, 'num_key_value_heads': 1, 'tie_word_embeddings': True},
    'llama/attention-bias': {**GQA, 'attention_bias': True},
    'llama/mlp-bias': {**LLAMA, 'mlp_bias': True, 'attention_bias': True, 'tie_word_embeddings': True},
    'llama/wide-heads': {**GQA, 'hidden_size': 40, 'head_dim': 16},
    'llama/heads-of-4': ({**GQA, 'head_dim': 4}, [9, 2, 5]),
    'llama/theta-500000': {**GQA, 'hidden_size': 48, 'rope_theta': 500000.0, 'rms_norm_eps': 1e-6},
    'llama/rope-parameters': v5({**GQA, 'num_hidden_layers': 3}, {'rope_type': 'default', 'rope_theta': 500000.0}),
    'llama/rope-linear': {**GQA, 'rope_scaling': {'type': 'linear', 'factor': 4.0}},
    'llama/rope-dynamic': ({**GQA, 'max_position_embeddings': 16, 'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}, LONG),
    'llama/rope-llama3': (v5({**GQA, 'head_dim': 16}, {**LLAMA3, 'rope_theta': 500000.0}), LONG),
    'llama/rope-yarn': ({**GQA, 'head_dim': 16, 'rope_scaling': {'type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 16}}, LONG),
    'llama/rope-yarn-mscale': (v5({**GQA, 'head_dim': 16}, {
        'rope_type': 'yarn', 'rope_theta': 10000.0, 'factor': 4.0, 'original_max_position_embeddings': 16,
        'mscale': 0.7, 'mscale_all_dim': 1.2, 'beta_fast': 4.0, 'beta_slow': 0.5}), LONG),
    'llama/rope-yarn-attention-factor': (v5({**GQA, 'head_dim': 16}, {
        'rope_type': 'yarn', 'rope_theta': 10.0, 'factor': 4.0, 'original_max_position_embeddings': 16,
        'attention_factor': 1.4, 'beta_fast': 2.0, 'beta_slow': 0.01, 'truncate': False}), LONG),
    'mistral/plain': v5({**MISTRAL, 'head_dim': 16, 'hidden_size': 40}, {'rope_type': 'default', 'rope_theta': 1000000.0}),
    'mistral/window': {**MISTRAL, 'sliding_window': 4},
    'qwen2/plain': QWEN2,
    'qwen2/window-tied': {**QWEN2, 'num_hidden_layers': 3, 'use_sliding_window': True, 'tie_word_embeddings': True},
    'qwen2/layer-types-yarn': (v5({
        **QWEN2, 'use_sliding_window': True, 'num_hidden_layers': 3, 'max_window_layers': 28, 'layer_types': ['sliding_attention', 'full_attention', 'sliding_attention'],
        'max_position_embeddings': 16}, {'rope_type': 'yarn', 'rope_theta': 1000000.0, 'factor': 4.0, 'original_max_position_embeddings': 16}), [24, 5]),
    'qwen3/plain': {**QWEN3, 'hidden_size': 40},
    'qwen3/bias-window-tied': v5({**QWEN3, 'attention_bias': True, 'use_sliding_window': True, 'tie_word_embeddings': True}, {'rope_type': 'default', 'rope_theta': 1000000.0}),
    'glm/plain': GLM,
    'glm/quarter-tied': v5({**without(GLM, 'partial_rotary_factor'), 'hidden_size': 40, 'attention_bias': False, 'tie_word_embeddings': True, 'num_key_value_heads': 1},
                           {'rope_type': 'default', 'rope_theta': 10000.0, 'partial_rotary_factor': 0.25}),
    'glm/heads-of-20': ({**GLM, 'head_dim': 20}, [9, 2, 5]),
    'glm4/plain': GLM4,
    'glm4/no-bias-tied': v5({**without(GLM4, 'partial_rotary_factor'), 'head_dim': 8, 'attention_bias': False, 'tie_word_embeddings': True},
                            {'rope_type': 'linear', 'factor': 2.0, 'rope_theta': 10000.0, 'partial_rotary_factor': 0.5}),
    'chatglm2/plain': CHATGLM2,
    'chatglm2/ratio-wide-heads': {
        **without(CHATGLM2, 'prefix_projection'), 'architectures': ['ChatGLMForConditionalGeneration'], 'hidden_size': 40, 'kv_channels': 16, 'multi_query_group_num': 1,
        'num_layers': 3, 'rope_ratio': 50, 'add_qkv_bias': False},
    'chatglm2/interpolated': ({**CHATGLM2, '_name_or_path': 'THUDM/chatglm2-6b-32k', 'rope_ratio': 16}, LONG),
    'chatglm2/linear-bias': {**CHATGLM2, 'add_bias_linear': True},
}
"""By name: (config, lengths, LoRA targets)."""
MODELS = {
    name: (*(entry if isinstance(entry, tuple) else (entry, LENGTHS)), TARGETS[name.split('/')[0]]) for name, entry in CONFIGS.items()
}
