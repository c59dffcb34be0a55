"""Configs of small models of many architectures; `architectures.py` builds them.

A model has few layers, yet every kind of layer that its architecture knows. Windows, chunks
and the lengths at which a rope switches are short, so that a test's prompts cross them.
Multipliers are not 1, so that leaving one out shows.
"""

from typing import Any

VOCABULARY = 288  # the tiny tokenizer has 258 tokens; the rest is pad, as in many models
PAD = 257  # of the tiny tokenizer
WINDOW = 8
SWITCH = 32  # longrope takes its long factors beyond so many positions

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
HEADS_OF_24 = {"head_dim": 24}
WIDER = {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 1}
EVERY_OTHER = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": WINDOW}
LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
DELTA_RULE = LINEAR | {
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {  # attention of DeepSeek
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
GROUPS = {"n_group": 2, "topk_group": 1}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
GRANITE = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}


def longrope(rotated: int, **more: Any) -> dict[str, Any]:
    """Keys of a rope whose factors switch at SWITCH positions; rotated: numbers of a head."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.05 * i for i in range(rotated // 2)],
        "long_factor": [1.5 + 0.9 * i for i in range(rotated // 2)],
        "original_max_position_embeddings": SWITCH,
    }
    return {"original_max_position_embeddings": SWITCH, "rope_parameters": rope | more}


# Name: (transformers' name of the config, its keys beside SHAPE).
TEXT_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba": ("Bamba", MAMBA | {"attn_layer_indices": [1, 3]}),
    "bloom": ("Bloom", {"n_layer": 4, "n_head": 4}),
    "cohere": ("Cohere", {"logit_scale": 0.3, "use_qk_norm": True}),
    "cohere2": ("Cohere2", EVERY_OTHER | {"logit_scale": 0.3}),
    "deepseek-v2": ("DeepseekV2", LATENT | GROUPS | {"topk_method": "group_limited_greedy"}),
    "deepseek-v3": ("DeepseekV3", LATENT | GROUPS | {"rope_parameters": YARN}),
    "deepseek-v3.2": (
        "DeepseekV32",
        LATENT | GROUPS | {"index_topk": 6, "index_head_dim": 16, "index_n_heads": 2},
    ),
    "doge": ("Doge", {"keep_window_size": 16}),
    "exaone-4": ("Exaone4", {"sliding_window": WINDOW, "sliding_window_pattern": 2}),
    "falcon": ("Falcon", {"bias": True}),
    "falcon, alibi": ("Falcon", {"alibi": True, "multi_query": False}),
    "falcon, new decoder": ("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-h1": (
        "FalconH1",
        MAMBA
        | {
            "mamba_d_ssm": 128,
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 2.0,
            "key_multiplier": 0.7,
            "attention_out_multiplier": 0.8,
            "ssm_in_multiplier": 0.9,
        },
    ),
    "falcon-mamba": ("FalconMamba", {"state_size": 8}),
    "gemma": ("Gemma", HEADS_OF_24),
    "gemma-2": (
        "Gemma2",
        EVERY_OTHER
        | HEADS_OF_24
        | {
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 1.5,
        },
    ),
    "gemma-3": ("Gemma3Text", EVERY_OTHER | HEADS_OF_24 | {"query_pre_attn_scalar": 16}),
    "gemma-3n": (
        "Gemma3nText",
        EVERY_OTHER
        | {
            "head_dim": 16,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "num_kv_shared_layers": 2,
            "laurel_rank": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "num_hidden_layers": 6,
            "intermediate_size": [96] * 6,
            "activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.0, 0.0, 0.0],
        },
    ),
    "gemma-4": (
        "Gemma4Text",
        EVERY_OTHER
        | {
            "head_dim": 16,
            "global_head_dim": 32,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "final_logit_softcapping": 1.5,
        },
    ),
    "gemma-4, experts": (
        "Gemma4Text",
        EVERY_OTHER
        | {
            "head_dim": 16,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
    ),
    "gemma-4, shared keys": (
        "Gemma4Text",
        EVERY_OTHER
        | {
            "head_dim": 16,
            "global_head_dim": 32,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 16,
            "num_kv_shared_layers": 2,
        },
    ),
    "glm-4": ("Glm4", HEADS_OF_24 | {"attention_bias": True}),
    "gpt-2": (
        "GPT2",
        {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "gpt-neox": ("GPTNeoX", {}),
    "gpt-oss": ("GptOss", EVERY_OTHER | LOCAL_EXPERTS | {"head_dim": 16, "rope_parameters": YARN}),
    "granite-3": ("Granite", GRANITE | {"attention_bias": True}),
    "granite-3, experts": ("GraniteMoe", GRANITE | LOCAL_EXPERTS),
    "granite-4": (
        "GraniteMoeHybrid",
        GRANITE | LINEAR | MAMBA | LOCAL_EXPERTS | {"shared_intermediate_size": 48},
    ),
    "granite-4, attention only": (
        "GraniteMoeHybrid",
        GRANITE
        | MAMBA
        | {
            "layer_types": ["full_attention"] * 4,
            "num_local_experts": 0,
            "shared_intermediate_size": 96,
            "position_embedding_type": "rope",
        },
    ),
    "jamba": (
        "Jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 0,
            "num_experts": 4,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,
        },
    ),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"] * 2, "conv_bias": True}),
    "llama-2": ("Llama", {"num_key_value_heads": 4}),
    "llama-3.1": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama-3.2, tied": ("Llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama, biases": ("Llama", WIDER | {"attention_bias": True, "mlp_bias": True}),
    "mamba": ("Mamba", {"state_size": 8}),
    "mamba-2": (
        "Mamba2",
        {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 2, "chunk_size": 8},
    ),
    "minimax": ("MiniMax", LINEAR | LOCAL_EXPERTS | {"block_size": 8, "full_attn_alpha_factor": 2}),
    "ministral": ("Ministral", EVERY_OTHER | HEADS_OF_24),
    "ministral-3": (
        "Ministral3",
        {"head_dim": 16, "rope_parameters": YARN | {"llama_4_scaling_beta": 0.3}},
    ),
    "mistral": ("Mistral", HEADS_OF_24 | {"sliding_window": None}),
    "mistral, window": ("Mistral", {"sliding_window": WINDOW}),
    "mixtral": ("Mixtral", LOCAL_EXPERTS | {"sliding_window": WINDOW}),
    "mpt": ("Mpt", {"d_model": 64, "n_layers": 4, "n_heads": 4, "max_seq_len": 512}),
    "nemotron": ("Nemotron", {"mlp_bias": True}),
    "nemotron-h": (
        "NemotronH",
        {
            "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
            "head_dim": 16,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "ssm_state_size": 16,
            "n_groups": 2,
            "chunk_size": 8,
            "n_routed_experts": 4,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
            "use_mamba_kernels": False,
        },
    ),
    "olmo": ("Olmo", {"clip_qkv": 0.5}),
    "olmo-2": ("Olmo2", {}),
    "olmo-3": ("Olmo3", EVERY_OTHER),
    "olmo-hybrid": ("OlmoHybrid", DELTA_RULE | {"linear_num_key_heads": 4}),
    "phi": ("Phi", {"qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "phi-3": ("Phi3", {"pad_token_id": PAD, "sliding_window": WINDOW}),
    "phi-3.5": ("Phi3", longrope(16)),
    "phi-4-mini": ("Phi3", longrope(8, partial_rotary_factor=0.5) | {"tie_word_embeddings": True}),
    "phi-3.5-moe": (
        "Phimoe",
        LOCAL_EXPERTS
        | {"sliding_window": WINDOW, "attention_bias": True, "lm_head_bias": True}
        | {"router_jitter_noise": 0.0},
    ),
    "phi-3.5-moe, longrope": (
        "Phimoe",
        LOCAL_EXPERTS
        | longrope(16, short_mscale=1.2, long_mscale=1.3)
        | {"router_jitter_noise": 0.0},
    ),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2.5, window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen2, experts": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 32}),
    "qwen3": ("Qwen3", HEADS_OF_24 | {"tie_word_embeddings": True}),
    "qwen3, experts": ("Qwen3Moe", EXPERTS | {"head_dim": 16, "norm_topk_prob": True}),
    "qwen3-next": ("Qwen3Next", DELTA_RULE | EXPERTS | {"shared_expert_intermediate_size": 32}),
    "qwen3.5": ("Qwen3_5Text", DELTA_RULE),
    "qwen3.5, experts": (
        "Qwen3_5MoeText",
        DELTA_RULE | EXPERTS | {"shared_expert_intermediate_size": 32},
    ),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}),
    "stablelm": ("StableLm", {"use_qkv_bias": True, "qk_layernorm": True}),
    "starcoder2": ("Starcoder2", {"sliding_window": WINDOW}),
}
