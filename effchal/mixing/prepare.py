"""From a config to what a run trains on and is measured with."""

import hashlib
import logging
from pathlib import Path

from effchal.config import Config
from effchal.mixing.mix import load_mix, write_report
from effchal.mixing.packing import EncodedExample, MicroBatch, TrainingOrder, encode_example, pack
from effchal.mixing.sources import DataError
from effchal.prompts import PromptEncoder

log = logging.getLogger(__name__)


def prepare_data(
    cfg: Config, encoder: PromptEncoder, run_dir: Path
) -> tuple[TrainingOrder, list[EncodedExample], str]:
    """Load and encode the data mix; leaves mix.json and mix.md in the run folder. The text is a digest of the data."""
    mix = load_mix(cfg.data_mix)
    options = (encoder, cfg.model.max_seq_len, cfg.train.loss_on_prompt)
    both = {example.id: encode_example(example, *options) for example in mix.train + mix.validation}
    mix.train = [example for example in mix.train if both[example.id] is not None]
    validation = [both[example.id] for example in mix.validation if both[example.id] is not None]
    if not mix.train:
        raise DataError(
            f"no training example has an answer within model.max_seq_len={cfg.model.max_seq_len} tokens"
        )
    encoded = [both[example.id] for example in mix.train]
    order = TrainingOrder(mix, encoded, cfg.train.examples_per_step, cfg.train.epochs)
    if order.steps == 0:
        raise DataError("the weights of data_mix.sources draw no example at all; raise them")
    totals = {
        "train_examples": len(encoded),
        "validation_examples": len(validation),
        "train_tokens": sum(len(example.ids) for example in encoded),
        "validation_tokens": sum(len(example.ids) for example in validation),
        "truncated": sum(example.truncated for example in encoded + validation),
        "dropped_no_answer_left": sum(example is None for example in both.values()),
    }
    write_report(mix, totals, run_dir)
    log.info("data mix: %s", ", ".join(f"{name} {count:,}" for name, count in totals.items()))
    data_sha256 = hashlib.sha256(
        repr([example.ids for example in encoded + validation]).encode()
    ).hexdigest()
    return order, validation, data_sha256


def pack_for(cfg: Config, examples: list[EncodedExample]) -> list[MicroBatch]:
    return pack(examples, cfg.model.max_seq_len, cfg.train.micro_batch_size, cfg.train.packing)
