"""Memory of Mistral-7B on 2,048 tokens, the setting that the project exists for."""

import pytest
import torch

from effchal import load_config
from effchal.planning.memory import plan_memory
from effchal.planning.workload import MicroBatchSize

LARGEST = MicroBatchSize(tokens=2048, targets=2048, longest=2048)
FLAGSHIP = "experiment=lima_platypus"  # r 64, dropout 0.05


@pytest.mark.parametrize(
    ("words", "most_gib"),
    [
        (["model.quantization=nf4", "train.activation_checkpointing=none"], 16),
        (["model.quantization=null", "train.activation_checkpointing=selective"], 19),
    ],
)
def test_it_fits_24_gib_on_the_fast_path(words, most_gib):
    cfg = load_config([FLAGSHIP, *words])
    assert plan_memory(cfg, torch.device("cuda:0"), LARGEST, None).peak <= most_gib * 2**30
