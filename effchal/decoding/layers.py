"""Which layers a decoding contrasts: the contrast of a config, resolved for one model."""

from collections.abc import Sequence
from typing import assert_never

from effchal.config import ConfigError, DecodingConfig
from effchal.config.choices import DecodingMethod, Selector
from effchal.decoding.contrast import Contrast, Dola, Greedy, Sled


def candidate_layers(bucket: str, num_layers: int, tied: bool) -> tuple[int, ...]:
    """`low` or `high` as in transformers' DoLa: every second layer of the lower or the upper half.

    N layers give 0, 2 … below N // 2, or N // 2, N // 2 + 2 … below N. Above 40 layers, the lowest
    or the highest 20. With tied embeddings layer 0 gives back the input token, so `low` starts at
    2 (in two layers, at 1); where the upper half begins there, that layer alone is `low`. The DoLa
    paper's models (32, 40, 60 and 80 layers) get the paper's layers.
    """
    middle = num_layers // 2
    if bucket == "low":
        first = min(2, num_layers - 1) if tied else 0
        layers = range(first, middle if num_layers <= 40 else 20, 2)
        return (first,) if first == middle else tuple(layers)
    return tuple(range(middle if num_layers <= 40 else num_layers - 20, num_layers, 2))


def check_premature_layers(layers: Sequence[int], num_layers: int, key: str) -> None:
    """Layer i is hidden_states[i]: 0 = embeddings, num_layers = mature (after the final norm).

    Raises:
        ConfigError: nothing to contrast, or a layer that this model does not have.
    """
    allowed = f"0..{num_layers - 1} (layer {num_layers} is the mature one)"
    if not layers:
        raise ConfigError(
            f"{key} leaves no layer of this model, whose premature layers are {allowed}"
        )
    bad = [layer for layer in layers if not 0 <= layer < num_layers]
    if bad:
        raise ConfigError(
            f"{key} has {bad}, but this model's premature layers are {allowed}; "
            f"give low, high or a list made for {num_layers} layers"
        )


def contrast_of(
    cfg: DecodingConfig,
    num_layers: int,
    tied: bool,
    key: str = "decoding.premature_layers",
    layers: str | Sequence[int] | None = None,
) -> Contrast:
    """The contrast that a config names, with layers of this model.

    Args:
        tied: whether the head is the embedding matrix.
        key: where the layers stand, for messages.
        layers: in place of cfg.premature_layers, for a sweep.

    Raises:
        ConfigError: layers that the model does not have.
    """
    if cfg.method in (DecodingMethod.greedy, DecodingMethod.sample):
        return Greedy()
    wanted = cfg.premature_layers if layers is None else layers
    resolved = (
        candidate_layers(wanted, num_layers, tied) if isinstance(wanted, str) else tuple(wanted)
    )
    check_premature_layers(resolved, num_layers, key)
    match cfg.method:
        case DecodingMethod.sled:
            return Sled(resolved, cfg.sled_rate, cfg.sled_top_k, cfg.exit_norm)
        case DecodingMethod.dola:
            if cfg.selector is Selector.static and len(resolved) > 1:
                static = "decoding.selector=static takes one layer"
                raise ConfigError(f"{key} has {list(resolved)}; {static}")
            return Dola(
                resolved,
                cfg.selector.value,
                cfg.relative_top,
                cfg.min_tokens_to_keep,
                cfg.exit_norm,
                cfg.post_softmax,
            )
    assert_never(cfg.method)  # a new method needs its case above
