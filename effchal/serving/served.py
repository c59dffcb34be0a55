"""The models of one server: the one it began with, and adapters on the same base model."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from effchal.config import Config, ConfigError
from effchal.prompts.encoder import PromptEncoder
from effchal.serving.refusals import RequestError

if TYPE_CHECKING:  # torch comes with them, and the master process must stay small to fork cleanly
    from effchal.decoding.engine import Engine
    from effchal.serving.scheduler import Scheduler
    from effchal.serving.shared_base import CheckedAdapter


@dataclass(frozen=True)
class ServedModel:
    """What one name stands for: prompts, decoding and adapter."""

    name: str
    cfg: Config
    encoder: PromptEncoder
    adapter: str = ""  # as the engine names it; empty: the model as it was loaded
    bundle: Path | None = None


@dataclass(frozen=True)
class LoadedModel:
    """All that exists only once the weights are loaded."""

    engine: "Engine"
    encoder: PromptEncoder
    scheduler: "Scheduler"
    longest_token: int  # characters
    adapters: dict[str, ServedModel] = field(default_factory=dict)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def check_ids(self, ids: list[int], field: str) -> None:
        """Raises: RequestError: an id that the tokenizer does not know."""
        vocabulary = len(self.engine.tokenizer)
        bad = next((i for i in ids if i >= vocabulary), None)
        if bad is not None:
            raise RequestError(400, f"token {bad} is not in the vocabulary of {vocabulary}", field)

    def add(self, name: str, check: "Callable[[], CheckedAdapter]") -> None:
        """Let requests name an adapter.

        Args:
            check: reads the bundle; it may take seconds, while other requests are answered.

        Raises:
            ConfigError: the name is taken, or the bundle does not fit.
        """
        with self._changing:
            if name in self.adapters:
                bundle = self.adapters[name].bundle
                raise ConfigError(f"the adapter {name} is there already, from {bundle}")
            found = check()
            adapter = self.scheduler.call(lambda: self.engine.model.load_adapter(found.folder))
            served = ServedModel(name, found.cfg, found.encoder, adapter, found.bundle)
            self.adapters[name] = served

    def remove(self, name: str) -> None:
        """Take no more requests for an adapter, and free it once the running ones are answered.

        Raises:
            KeyError: there is none.
        """
        with self._changing:
            adapter = self.adapters.pop(name).adapter
            self.scheduler.drop_adapter(adapter)
