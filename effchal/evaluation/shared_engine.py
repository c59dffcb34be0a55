"""One engine for the models of a sweep that are adapters on one base model."""

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from effchal.config import ConfigError
from effchal.decoding.engine import Engine
from effchal.model.adapter_names import BASE
from effchal.model.adapters import check_plain
from effchal.model_source import ModelSource, load_engine
from effchal.serving.shared_base import check_same_base, tokenizer_of_same_vocabulary

log = logging.getLogger("effchal.evaluate")


class SharedEngine:
    """The base model, with adapters that are loaded at their first use."""

    def __init__(self, source: ModelSource, memory_gib: float | None) -> None:
        """source: of any of the models."""
        self._source, self._memory_gib = base_of(source), memory_gib
        self._names: dict[Path | None, str] = {None: BASE}

    @cached_property
    def engine(self) -> Engine:
        engine = load_engine(self._source, self._memory_gib)
        engine.ends = set(engine.own_ends)  # those of a template come with its prompts
        return engine

    def adapter(self, bundle: Path | None) -> str:
        """The engine's name of a bundle's adapter."""
        if bundle not in self._names and bundle is not None:
            self._names[bundle] = self.engine.model.load_adapter(bundle / "adapter")
        return self._names[bundle]


def base_of(source: ModelSource) -> ModelSource:
    return replace(source, bundle=None)


def can_share(source: ModelSource, base: ModelSource) -> bool:
    """Whether a model may be asked by an engine of this base model; a line says why not."""
    try:
        check_same_base(source, base)
        if source.bundle is not None:
            check_plain(source.bundle / "adapter")
            tokenizer_of_same_vocabulary(source, base)
    except ConfigError as error:
        log.info("asked on its own, not with the others: %s", error)
        return False
    return True
