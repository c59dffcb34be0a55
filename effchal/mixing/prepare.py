"""From a config to the examples that a run trains on and is measured with."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effchal.config import Config
from effchal.mixing.mix import load_mix, write_report
from effchal.mixing.order import TrainingOrder
from effchal.mixing.packing import EncodedExample, MicroBatch, encode_example, pack
from effchal.mixing.sources import DataError, Example
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts import PromptEncoder

log = logging.getLogger(__name__)


@dataclass
class PreparedData:
    """All examples of a run, encoded."""

    tokenizer: Any  # the model's, a fast one of transformers
    order: TrainingOrder
    validation: list[EncodedExample]
    sha256: str  # of all examples, see digest


def prepare_data(cfg: Config, run_dir: Path) -> PreparedData:
    """Load and encode the data mix; leaves mix.json and mix.md in the run folder.

    Raises:
        ConfigError: a tokenizer or a source that cannot be used, or no example to train on.
    """
    tokenizer = load_tokenizer(cfg.model)
    mix = load_mix(cfg.data_mix)
    encoder = PromptEncoder(tokenizer, cfg.prompt)
    if encoder.chat is not None and encoder.chat.last_answer_only:
        log.warning(
            "the tokenizer's chat template spells earlier answers otherwise than the model has to "
            "give them: only the last answer of a conversation is learned"
        )
    options = (encoder, cfg.model.max_seq_len, cfg.train.loss_on_prompt)
    encoded = {e.id: encode_example(e, *options) for e in mix.train + mix.validation}
    mix.train = [example for example in mix.train if encoded[example.id] is not None]
    train = [found for example in mix.train if (found := encoded[example.id])]
    validation = [found for example in mix.validation if (found := encoded[example.id])]
    if not train:
        raise DataError(
            "no training example has an answer within "
            f"model.max_seq_len={cfg.model.max_seq_len} tokens"
        )
    order = TrainingOrder(mix, train, cfg.train.examples_per_step, cfg.train.epochs)
    if order.steps == 0:
        raise DataError("the weights of data_mix.sources draw no example at all; raise them")
    totals = {
        "train_examples": len(train),
        "validation_examples": len(validation),
        "train_tokens": sum(len(example.ids) for example in train),
        "validation_tokens": sum(len(example.ids) for example in validation),
        "truncated": sum(example.truncated for example in train + validation),
        "dropped_no_answer_left": sum(example is None for example in encoded.values()),
    }
    write_report(mix, totals, run_dir)
    log.info("data mix: %s", ", ".join(f"{name} {count:,}" for name, count in totals.items()))
    sha256 = digest(train + validation, mix.train + mix.validation)
    return PreparedData(tokenizer, order, validation, sha256)


def digest(encoded: list[EncodedExample], examples: list[Example]) -> str:
    """Of all token ids, and of which answers are left out of the loss, where any is."""
    parts = repr([each.ids for each in encoded])
    unlearned = [
        (each.id, i) for each in examples for i, turn in enumerate(each.turns) if not turn.learn
    ]
    if unlearned:
        parts += repr(unlearned)
    return hashlib.sha256(parts.encode()).hexdigest()


def pack_for(cfg: Config, examples: list[EncodedExample]) -> list[MicroBatch]:
    """Micro-batches of the config's size, which is a number by now, not `auto`."""
    size = int(cfg.train.micro_batch_size)
    return pack(examples, cfg.model.max_seq_len, size, cfg.train.packing)
