"""What a GPU holds of a base model whose layers are spread over several."""

from typing import Any

from effchal.config import Config, ConfigError
from effchal.model.structure import layers_of
from effchal.planning.meta_model import shape_config
from effchal.training.sharding import is_sharded, large_weights


def layer_weights(model: Any) -> int:
    """Bytes of the matrices that FSDP shards."""
    try:
        return sum(weight.nbytes for layer in layers_of(model) for weight in large_weights(layer))
    except ConfigError:  # no list of layers
        return 0


def held_weights(cfg: Config, weights: int, of_layers: int) -> int:
    """Bytes of a model's weights that one of the run's processes holds.

    Under FSDP these are a share of the layers' matrices, and two whole layers: the one at work and
    the next.
    """
    if not is_sharded(cfg):
        return weights
    layers = shape_config(cfg.model).get_text_config().num_hidden_layers
    away = of_layers * (1 - 1 / cfg.train.gpus - 2 / layers)
    return weights - max(0, round(away))
