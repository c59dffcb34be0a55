"""Small random models of every known architecture, and a comparison of decoding's two paths."""

import torch
import transformers

from effchal.decoding.kv_cache import RowCache
from effchal.decoding.taps import NewTokens, TappedModel

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
PADDED = {"pad_token_id": 0}
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
MODELS = {
    "llama": ("Llama", {}),
    "llama, biases and scaled rotation": (
        "Llama",
        {"attention_bias": True, "rope_parameters": ROPE},
    ),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, one key head a query head": ("Llama", {"num_key_value_heads": 6}),
    "mistral, window of 4": ("Mistral", {"sliding_window": 4, "head_dim": 32}),
    "mistral, wide window": ("Mistral", {"sliding_window": 12, "head_dim": 32}),
    "mistral, no window": ("Mistral", {"sliding_window": None}),
    "qwen2, window in some layers": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen2, wide window in some layers": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    ),
    "qwen3, norms of queries and keys": ("Qwen3", {"head_dim": 24}),
    "gemma, gains of one and more": ("Gemma", {"head_dim": 16}),
    "granite, multipliers": ("Granite", {"embedding_multiplier": 3.0, "residual_multiplier": 0.3}),
    "phi3, joined projections, window": ("Phi3", {"sliding_window": 5} | PADDED),
    "smollm3, a layer without rotation": ("SmolLM3", {"no_rope_layers": [1, 0, 1]} | PADDED),
    "gemma3, norms of what is added": (
        "Gemma3",
        {"head_dim": 16, "sliding_window": 4, "layer_types": KINDS},
    ),
}
TAPS = ((0, False), (1, False), (1, True), (2, False))


def random_model(name, changes, dtype=torch.float32):
    config_name = "Gemma3TextConfig" if name == "Gemma3" else name + "Config"
    config = getattr(transformers, config_name)(**SHAPE | changes)
    torch.manual_seed(0)
    model = getattr(transformers, name + "ForCausalLM")(config)
    for parameter in model.parameters():  # biases and norms too, which start as zeros and ones
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.to(dtype).eval().requires_grad_(False)


@torch.inference_mode()
def decoded_states(tapped, lengths, steps=6, shared=0):
    """States (K + 1, steps * rows + 2, D) of rows after prompts that are equal up to `shared`."""
    cache, taps = RowCache(), tuple(tap for tap in TAPS if tap[0] < tapped.num_layers)
    generator = torch.Generator().manual_seed(1)
    beginning = torch.randint(tapped.vocabulary, (1, shared), generator=generator)
    for length in lengths:
        prompt = torch.randint(tapped.vocabulary, (1, length), generator=generator)
        prompt[:, :shared] = beginning
        tapped.extend([NewTokens(cache, cache.add_row(), prompt)], (), torch.tensor([length - 1]))
    ids = torch.randint(tapped.vocabulary, (steps, len(lengths), 1), generator=generator)
    at = torch.arange(len(lengths))
    states = [tapped.extend([NewTokens(cache, 0, step_ids, shared)], taps, at) for step_ids in ids]
    more = torch.randint(tapped.vocabulary, (1, 7), generator=generator)
    tail = tapped.extend(
        [NewTokens(cache, 0, more)], taps, torch.tensor([0, 5])
    )  # several tokens at once, behind others
    return torch.cat([*states, tail], dim=1)


def check_paths_agree(model, tolerance=2e-5):
    for lengths in ([5], [3, 3], [2, 9, 5]):
        tapped = TappedModel(model)
        assert tapped._fused is not None
        fast = decoded_states(tapped, lengths)
        tapped._fused = None
        slow = decoded_states(tapped, lengths)
        assert (fast - slow).norm() <= tolerance * slow.norm()
