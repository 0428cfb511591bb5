"""Tiny configurations of 60 families of causal models for `benchmarks.families`: real config classes, random weights.

Each varies what the families differ in: the head (bias, scale, soft-cap, transformation), windows shorter than a row,
ALiBi, attention sinks, rotary variants, parallel blocks, experts, recurrent and hybrid layers, tied embeddings, dropout
in the config, a missing pad token, and a short context.
"""

from typing import Any

VOCAB_SIZE = 96
WINDOW = 6  # shorter than the documents of the benchmark
LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "initializer_range": 0.2,
    "bos_token_id": 1, "eos_token_id": 2, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MAMBA = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    """The key `rope_parameters` of a variant of rotary positions."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA),
    "llama-3.1": ("LlamaConfig", LLAMA | {"tie_word_embeddings": True, "pad_token_id": None} | rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)),
    "llama-dynamic-ntk": ("LlamaConfig", LLAMA | {"max_position_embeddings": 24} | rope("dynamic", factor=4.0)),
    "llama-yarn": ("LlamaConfig", LLAMA | rope("yarn", factor=8.0, original_max_position_embeddings=32)),
    "mistral": ("MistralConfig", LLAMA | {"sliding_window": WINDOW}),
    "mixtral": ("MixtralConfig", LLAMA | {"sliding_window": WINDOW, "num_local_experts": 4}),
    "qwen2": ("Qwen2Config", LLAMA | {
        "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1, "tie_word_embeddings": True}),
    "qwen2-moe": ("Qwen2MoeConfig", LLAMA | EXPERTS | {
        "shared_expert_intermediate_size": 24, "decoder_sparse_step": 2}),
    "qwen3": ("Qwen3Config", LLAMA | {"head_dim": 16, "attention_dropout": 0.1}),
    "qwen3-moe": ("Qwen3MoeConfig", LLAMA | EXPERTS | {"head_dim": 8, "norm_topk_prob": True}),
    "qwen3-next": ("Qwen3NextConfig", LLAMA | EXPERTS | {
        "head_dim": 8, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 24}),
    "gemma": ("GemmaConfig", LLAMA | {"head_dim": 16}),
    "gemma-2": ("Gemma2Config", LLAMA | {
        "head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 2.0, "layer_types": MIXED}),
    "gemma-3": ("Gemma3TextConfig", LLAMA | {"head_dim": 16, "sliding_window": WINDOW, "layer_types": MIXED}),
    "gemma-3n": ("Gemma3nTextConfig", LLAMA | {
        "head_dim": 16, "sliding_window": WINDOW, "layer_types": MIXED, "vocab_size_per_layer_input": VOCAB_SIZE,
        "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 8, "altup_num_inputs": 2,
        "intermediate_size": 48, "activation_sparsity_pattern": [0.0, 0.0, 0.0]}),
    "phi-1": ("PhiConfig", LLAMA | {"partial_rotary_factor": 0.5, "num_key_value_heads": 4, "resid_pdrop": 0.1}),
    "phi-3-longrope": ("Phi3Config", LLAMA | {"sliding_window": 16, "original_max_position_embeddings": 24} | rope(
        "longrope", short_factor=[1.0] * 4, long_factor=[4.0, 3.0, 2.0, 1.5], original_max_position_embeddings=24)),
    "phi-moe": ("PhimoeConfig", LLAMA | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW, "attention_bias": True,
        "lm_head_bias": True, "router_jitter_noise": 0.01, "input_jitter_noise": 0.01}),
    "gpt-2": ("GPT2Config", GPT | {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": False}),
    "gpt-neo": ("GPTNeoConfig", {
        "vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48,
        "attention_types": [[["global", "local"], 1]], "window_size": WINDOW, "max_position_embeddings": 512,
        "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "resid_dropout": 0.1, "embed_dropout": 0.1}),
    "gpt-neox": ("GPTNeoXConfig", LLAMA | {
        "rotary_pct": 0.5, "use_parallel_residual": True, "hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "gpt-j": ("GPTJConfig", GPT | {"rotary_dim": 4}),
    "codegen": ("CodeGenConfig", GPT | {"rotary_dim": 4}),
    "gpt-bigcode": ("GPTBigCodeConfig", GPT | {"multi_query": True}),
    "bloom": ("BloomConfig", {
        "vocab_size": VOCAB_SIZE, "hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.2,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "falcon-7b": ("FalconConfig", LLAMA | {
        "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False, "new_decoder_architecture": False,
        "hidden_dropout": 0.1}),
    "falcon-alibi": ("FalconConfig", LLAMA | {
        "multi_query": False, "parallel_attn": False, "bias": True, "alibi": True, "num_kv_heads": 4}),
    "falcon-h1": ("FalconH1Config", LLAMA | {
        "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
        "mamba_chunk_size": 8, "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0, "key_multiplier": 0.7}),
    "falcon-mamba": ("FalconMambaConfig", MAMBA),
    "mpt": ("MptConfig", {
        "vocab_size": VOCAB_SIZE, "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 512,
        "initializer_range": 0.2, "expansion_ratio": 2, "bos_token_id": 1, "eos_token_id": 2}),
    "opt": ("OPTConfig", {
        "vocab_size": VOCAB_SIZE, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 512, "word_embed_proj_dim": 32, "init_std": 0.2, "pad_token_id": 1,
        "bos_token_id": 3, "eos_token_id": 2, "dropout": 0.1}),
    "opt-350m": ("OPTConfig", {
        "vocab_size": VOCAB_SIZE, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 512, "word_embed_proj_dim": 16, "do_layer_norm_before": False, "init_std": 0.2,
        "pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 2}),
    "starcoder2": ("Starcoder2Config", LLAMA | {"sliding_window": WINDOW, "use_bias": True, "residual_dropout": 0.1}),
    "stablelm": ("StableLmConfig", LLAMA | {"use_qkv_bias": True, "use_parallel_residual": True, "qk_layernorm": True}),
    "persimmon": ("PersimmonConfig", LLAMA | {"num_key_value_heads": 4, "hidden_dropout": 0.1}),
    "cohere": ("CohereConfig", LLAMA | {"logit_scale": 0.25, "use_qk_norm": True}),
    "cohere-2": ("Cohere2Config", LLAMA | {"logit_scale": 0.25, "sliding_window": WINDOW, "layer_types": MIXED}),
    "granite": ("GraniteConfig", LLAMA | {
        "logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}),
    "granite-moe": ("GraniteMoeConfig", LLAMA | {
        "logits_scaling": 2.0, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite-moe-hybrid": ("GraniteMoeHybridConfig", LLAMA | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24, "logits_scaling": 2.0,
        "layer_types": ["mamba", "attention", "mamba"], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
        "mamba_expand": 2, "mamba_n_groups": 1, "mamba_chunk_size": 8}),
    "olmo": ("OlmoConfig", LLAMA | {"clip_qkv": 0.5}),
    "olmo-2": ("Olmo2Config", LLAMA),
    "olmo-3": ("Olmo3Config", LLAMA | {"sliding_window": WINDOW, "layer_types": MIXED}),
    "olmoe": ("OlmoeConfig", LLAMA | {"num_experts": 4, "num_experts_per_tok": 2}),
    "deepseek-v2": ("DeepseekV2Config", LLAMA | LATENT | {
        "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "moe_intermediate_size": 24, "first_k_dense_replace": 1, "head_dim": 8, "n_group": 1, "topk_group": 1}),
    "deepseek-v3": ("DeepseekV3Config", LLAMA | LATENT | {
        "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "moe_intermediate_size": 24, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}),
    "glm-4": ("GlmConfig", LLAMA | {"head_dim": 8, "partial_rotary_factor": 0.5, "pad_token_id": 3}),
    "glm-4-0414": ("Glm4Config", LLAMA | {"head_dim": 8, "partial_rotary_factor": 0.5}),
    "glm-4.5": ("Glm4MoeConfig", LLAMA | {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 24,
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "head_dim": 8, "use_qk_norm": True}),
    "gpt-oss": ("GptOssConfig", LLAMA | {
        "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW,
        "layer_types": MIXED}),
    "llama-4": ("Llama4TextConfig", LLAMA | {
        "intermediate_size_mlp": 48, "num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 8,
        "attention_chunk_size": WINDOW, "no_rope_layers": [1, 1, 0], "attn_temperature_tuning": True,
        "floor_scale": 4, "interleave_moe_layer_step": 2}),
    "mamba": ("MambaConfig", MAMBA),
    "mamba-2": ("Mamba2Config", MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8}),
    "jamba": ("JambaConfig", LLAMA | {
        "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 3, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
        "use_mamba_kernels": False}),
    "rwkv": ("RwkvConfig", {
        "vocab_size": VOCAB_SIZE, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 3,
        "context_length": 512, "bos_token_id": 1, "eos_token_id": 2}),
    "lfm2": ("Lfm2Config", LLAMA | {
        "layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 8, "conv_bias": True}),
    "recurrent-gemma": ("RecurrentGemmaConfig", LLAMA | {
        "attention_window_size": WINDOW, "lru_width": 32, "logits_soft_cap": 3.0, "w_init_variance_scale": 1.0}),
    "smollm3": ("SmolLM3Config", LLAMA | {"no_rope_layers": [1, 0, 1], "pad_token_id": 3}),
    "modernbert-decoder": ("ModernBertDecoderConfig", LLAMA | {
        "local_attention": 2 * WINDOW, "global_attn_every_n_layers": 2, "mlp_dropout": 0.1, "embedding_dropout": 0.1,
        "cls_token_id": 1, "sep_token_id": 2}),
    "xglm": ("XGLMConfig", {
        "vocab_size": VOCAB_SIZE, "d_model": 32, "ffn_dim": 48, "num_layers": 3, "attention_heads": 4,
        "max_position_embeddings": 512, "init_std": 0.2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "scale_embedding": True, "dropout": 0.1}),
}  # fmt: skip
