"""A small random copy of a model's architecture, to try what its code does."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch

from effchal.model.structure import own_attention, rope_switch
from effchal.model.text_model import from_config, keep_layers, text_model_class

log = logging.getLogger(__name__)

VOCABULARY = 160
WINDOW = 8  # tokens, in place of a sliding window or an attention chunk
SWITCH = 24  # tokens, in place of a rope_switch
WIDTH = 64  # of MLPs and experts
KV_HEADS, GROUP = 2, 2  # and query heads to each
MOST_WEIGHTS = 100_000_000
POSITIONS = 40
LAYERS = 4  # more where it takes more to show every kind of layer

KINDS = ("layer_types", "layers_block_type", "mlp_layer_types")
WINDOWS = (
    *("sliding_window", "window_size", "attention_window_size", "sliding_window_size"),
    *("local_attention", "attention_chunk_size", "index_topk", "keep_window_size"),
)
CHUNKS = ("chunk_size", "mamba_chunk_size")  # tokens that a recurrent layer computes together
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "top_k", "moe_k", "moe_topk", "top_k_experts")


def small_copy(config: Any, longest: int) -> Any | None:
    """The text model of a config, float32 on the CPU, with few and narrow layers.

    Windows and the switch of the rotary embedding are shortened too, so that short texts
    cross them.

    Args:
        longest: tokens of a text that will be seen; a switch beyond stays where it is.

    Returns:
        None where no smaller size of this architecture works.
    """
    for shrink in (_narrow, _shallow):
        made = copy.deepcopy(config.get_text_config())
        try:
            shrink(made, longest)
            return _random_model(made)
        except Exception as error:  # sizes that do not go together: try the next
            log.debug("%s by %s: %r", type(config).__name__, shrink.__name__, error)
            continue
    return None


def _random_model(config: Any) -> Any:
    """A model whose every weight counts: norms and biases drawn at random, too."""
    name = own_attention(text_model_class(config))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        with torch.device("meta"):
            shape = from_config(config, dtype=torch.float32, attn_implementation=name)
        if sum(parameter.numel() for parameter in shape.parameters()) > MOST_WEIGHTS:
            raise ValueError("not small enough to try in seconds")
        model = from_config(config, dtype=torch.float32, attn_implementation=name).eval()
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.1 * noise)
        # Runs once here, so that sizes that do not go together show.
        model(input_ids=torch.arange(8)[None] + 1, use_cache=False)
    return model.requires_grad_(False)


def _shallow(config: Any, longest: int) -> None:
    """Few layers, a small vocabulary, narrow MLPs, short windows."""
    total = config.num_hidden_layers
    kept = _layers_to_keep(config, total)
    keep_layers(config, kept)
    if getattr(config, "first_k_dense_replace", None):
        config.first_k_dense_replace = 1
    config.vocab_size = min(config.vocab_size, VOCABULARY)
    if getattr(config, "vocab_size_per_layer_input", None):
        config.vocab_size_per_layer_input = config.vocab_size
    config.pad_token_id = 0
    if not getattr(config, "rope_parameters", None) and getattr(
        config, "max_position_embeddings", None
    ):  # tables of positions and masks end before a packed row does
        config.max_position_embeddings = min(config.max_position_embeddings, POSITIONS)
    for name, value in list(vars(config).items()):
        if "intermediate_size" in name or name in ("ffn_hidden_size", "ffn_dim", "n_inner"):
            narrow = [min(each, WIDTH) for each in value] if isinstance(value, list) else value
            setattr(config, name, min(value, WIDTH) if isinstance(value, int) else narrow)
    for name in (*WINDOWS, *CHUNKS):
        if getattr(config, name, None):
            setattr(config, name, WINDOW)
    _shrink_experts(config)
    _shrink_switch(config, longest)


def _narrow(config: Any, longest: int) -> None:
    """As `_shallow`, with few heads; hidden size and heads keep their ratio."""
    _shallow(config, longest)
    if not hasattr(config, "num_attention_heads"):
        _narrow_recurrent(config)
        return
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    few = min(kv_heads, KV_HEADS) * min(heads // kv_heads, GROUP)
    config.hidden_size = config.hidden_size // heads * few
    config.num_attention_heads = few
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = min(kv_heads, KV_HEADS)
    if getattr(config, "mamba_expand", None) and getattr(config, "mamba_n_heads", None):
        config.mamba_n_heads = config.mamba_expand * config.hidden_size // config.mamba_d_head


def _narrow_recurrent(config: Any) -> None:
    """The sizes of Mamba and Mamba 2, which go together."""
    config.hidden_size = 2 * WIDTH
    if getattr(config, "num_heads", None):
        config.num_heads, config.n_groups = config.expand * config.hidden_size // config.head_dim, 1


def _layers_to_keep(config: Any, total: int) -> int:
    """The first layers that show every kind of layer."""
    kept = min(LAYERS, total)
    for name in KINDS:
        kinds = list(getattr(config, name, None) or [])
        if kinds:
            kept = max(kept, 1 + max(kinds.index(kind) for kind in set(kinds)))
    if getattr(config, "num_kv_shared_layers", None):
        kept = min(total, 2 * kept)
    return kept


def _shrink_experts(config: Any) -> None:
    chosen = max([getattr(config, name, None) or 0 for name in TOP_K])
    groups = getattr(config, "n_group", None) or 1
    for name in EXPERTS:
        if getattr(config, name, None):
            setattr(config, name, min(getattr(config, name), max(4, 2 * chosen, 2 * groups)))


def _shrink_switch(config: Any, longest: int) -> None:
    if longest <= (rope_switch(config) or longest):
        return
    if getattr(config, "original_max_position_embeddings", None):
        config.original_max_position_embeddings = SWITCH
    for rope in _ropes(config.rope_parameters):
        if "original_max_position_embeddings" in rope:
            rope["original_max_position_embeddings"] = SWITCH


def _ropes(rope: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rotary embedding's settings, which may stand by kind of layer."""
    yield rope
    yield from (part for part in rope.values() if isinstance(part, dict))
