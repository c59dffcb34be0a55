"""Examples in memory: all of one source, and one of them as ids."""

import numpy as np

from effchal.config import DataSourceConfig, ModelConfig, PromptConfig
from effchal.config.choices import LossOn
from effchal.mixing.encode import EncodedExample, EncodeWork, targets_of
from effchal.mixing.example import Example
from effchal.mixing.locate import locate
from effchal.mixing.sources import SourceReader
from effchal.prompts.encoder import PromptEncoder


def load_source(name: str, cfg: DataSourceConfig) -> list[Example]:
    """All examples of one source."""
    return list(SourceReader(name, cfg, locate(name, cfg)))


def encode_example(
    example: Example, encoder: PromptEncoder, max_seq_len: int, loss_on: LossOn = LossOn.answers
) -> EncodedExample | None:
    """Ids and targets of one example, cut after max_seq_len tokens; None if no target is left."""
    work = EncodeWork(ModelConfig(), PromptConfig(), max_seq_len, loss_on)
    batch = work.encode([example.turns], encoder)
    if not len(batch.rows):
        return None
    ids = batch.ids.astype(np.int64)
    targets = targets_of(ids, batch.learned)
    return EncodedExample(example.id, ids, targets, bool(batch.truncated[0]))
