"""From a config to the examples that a run trains on and is measured with."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effchal.config import Config
from effchal.config.choices import DataEngine, Template
from effchal.mixing.encode import EncodeWork
from effchal.mixing.encoded_source import Examples, encode_source
from effchal.mixing.locate import pin_revisions
from effchal.mixing.mix import Mix
from effchal.mixing.order import TrainingOrder
from effchal.mixing.parallel import released
from effchal.mixing.ray_cluster import check_ray
from effchal.mixing.readers import DataError
from effchal.mixing.report import MixReport, report
from effchal.mixing.select import Selection, select
from effchal.model.tokenizer import load_tokenizer, pin_revision
from effchal.prompts.encoder import PromptEncoder

log = logging.getLogger(__name__)
DIGEST = "2:"  # begins the digest of data; earlier versions had another one


@dataclass
class PreparedData:
    """All examples of a run, encoded."""

    order: TrainingOrder
    train: Examples
    validation: Examples
    sha256: str  # of all examples: ids, targets and use
    report: MixReport


@released()
def prepare_data(
    cfg: Config, output_dir: Path | None, selection: Selection | None = None
) -> PreparedData:
    """Load and encode the data mix; leaves mix.json and mix.md in the folder, if one is given.

    Args:
        selection: what select() chose already.

    Raises:
        ConfigError: a tokenizer or a source that cannot be used, or no example to train on.
    """
    selection = selection or select_data(cfg)
    if cfg.prompt.template is not Template.own:
        warn_of_template(PromptEncoder(load_tokenizer(cfg.model), cfg.prompt))
    work = EncodeWork(
        cfg.model, cfg.prompt, cfg.model.max_seq_len, cfg.train.loss_on, cfg.data_mix.clean.too_long
    )
    sources = [encode_source(each, work, cfg.data_mix.engine) for each in selection.sources]
    train = Examples(sources, [np.flatnonzero(~each.is_validation) for each in sources])
    validation = Examples(sources, [np.flatnonzero(each.is_validation) for each in sources])
    if not len(train):
        raise DataError(
            "no training example has an answer within "
            f"model.max_seq_len={cfg.model.max_seq_len} tokens"
        )
    weights = {name: source.weight for name, source in cfg.data_mix.sources.items()}
    mix = Mix(train.source, train.lengths, weights, cfg.data_mix.by, cfg.data_mix.seed)
    order = TrainingOrder(mix, train, cfg.train)
    if order.steps == 0:
        raise DataError("the weights of data_mix.sources draw no example at all; raise them")
    used = [
        hashlib.sha256(np.packbits(each.is_validation).tobytes()).hexdigest() for each in sources
    ]
    digests = [each.sha256 for each in sources]
    sha256 = DIGEST + hashlib.sha256(json.dumps([digests, used]).encode()).hexdigest()
    told = report(cfg, selection, sources, mix, order, train, validation, sha256)
    if output_dir is not None:
        told.write(output_dir)
    for source in told.sources:
        if source.share_rows == 0:
            log.warning("source %s: nothing of it is in the first epoch", source.source)
    log.info("data mix: %d examples, %d for validation", len(train), len(validation))
    return PreparedData(order, train, validation, sha256, told)


def warn_of_template(encoder: PromptEncoder) -> None:
    if encoder.chat is not None and encoder.chat.last_answer_only:
        log.warning(
            "the tokenizer's chat template spells earlier answers otherwise than the model has to "
            "give them: only the last answer of a conversation is learned"
        )


def select_data(cfg: Config) -> Selection:
    """The rows of a run, chosen without torch or a tokenizer.

    Commits of model and data sets that the config does not name are written into it.
    """
    if cfg.data_mix.engine is DataEngine.ray:
        check_ray()
    pin_revision(cfg.model)
    pin_revisions(cfg.data_mix)
    folder = cfg.scenario.path
    return select(cfg.data_mix, None if folder is None else Path(folder))
