"""Small random models with random LoRA adapters, and what a training step makes of them."""

import torch
import transformers

from effchal.config import LoraConfig
from effchal.kernels.attention import packed_hidden_states
from effchal.kernels.decoder_layer import FusedLayer
from effchal.kernels.loss import chunked_loss
from effchal.model.load import add_adapter
from effchal.model.structure import backbone, head, layers_of

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.randint(0, 250, (1, 90), generator=torch.Generator().manual_seed(0))
LENGTHS = (20, 50, 20)
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])[None]
SHAPES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {"attention_bias": True}),
    "mistral": (
        transformers.MistralConfig,
        transformers.MistralForCausalLM,
        {"sliding_window": 16},
    ),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 16}),
    "gemma": (transformers.GemmaConfig, transformers.GemmaForCausalLM, {"head_dim": 16}),
    "gemma3": (  # norms of what is added, and a window in every other layer
        transformers.Gemma3TextConfig,
        transformers.Gemma3ForCausalLM,
        {"head_dim": 16, "sliding_window": 16, "sliding_window_pattern": 2},
    ),
    "granite": (
        transformers.GraniteConfig,
        transformers.GraniteForCausalLM,
        {"residual_multiplier": 0.3, "attention_bias": True, "mlp_bias": True},
    ),
    "smollm3": (  # no rotary embedding in every other layer
        transformers.SmolLM3Config,
        transformers.SmolLM3ForCausalLM,
        {"no_rope_layers": [1, 0], "pad_token_id": 0},
    ),
}
JOINED = {  # its projections are one already
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM, {"pad_token_id": 0})
}


def make(shape, **lora):
    """A model whose frozen weights and adapters are all random, so that none is without effect."""
    config_type, model_type, more = (SHAPES | JOINED)[shape]
    sizes = {"vocab_size": 250, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    torch.manual_seed(1)
    model = model_type(config_type(**sizes, num_attention_heads=4, num_key_value_heads=2, **more))
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    return with_random_adapter(model, **lora)


def with_random_adapter(model, **lora):
    model = add_adapter(
        model, LoraConfig(**{"r": 4, "alpha": 8, "target_modules": ALL} | lora), seed=0
    )
    fill_adapter(model, std=0.2)
    return model.train()


def fill_adapter(model, std):
    """Give B random values. At 0, where it begins, A has no gradient and B says nothing."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)


def is_fused(model):
    return all(
        isinstance(getattr(layer.forward, "__self__", None), FusedLayer)
        for layer in layers_of(model)
    )


def states_and_gradients(model, hidden_states):
    hidden = hidden_states(model)
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    return [hidden.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]


def loss_and_gradients(model, hidden_states):
    targets = torch.arange(IDS.shape[1]) % 250
    loss = chunked_loss(head(model), hidden_states(model)[0], targets)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]


def packed(model):
    return packed_hidden_states(model, IDS, POSITIONS, LENGTHS)


def under_a_dense_mask(model):
    """What transformers makes of position_ids by itself."""
    return backbone(model)(input_ids=IDS, position_ids=POSITIONS, use_cache=False).last_hidden_state


def assert_close(found, expected, tolerance=2e-4):
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max()
