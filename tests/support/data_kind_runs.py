"""A kind of data in a run: three steps, the served bundle, and what is said of a wrong version."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effchal.config import ConfigError, load_config
from effchal.mixing.prepare import prepare_data, select_data
from support.configs import compose_config
from support.data_kinds import Kind, Talk

# Torch is imported inside the functions: what is wrong with data is told without it.
STEPS = 3
RUN = ["model=tiny", "budget=smoke", "data_mix.validation_fraction=0", "train.examples_per_step=1"]
RUN += [f"train.max_steps={STEPS}", "train.warmup_steps=0", "lora.target_modules=[q_proj]"]


@dataclass(frozen=True)
class Outcome:
    """What came of a kind of data."""

    record: dict[str, Any]  # run.json
    data_sha256: str  # of the ids below
    ids: list[int]  # of the first row, as trained
    learned: list[str]  # of it
    prompts: list[list[int]]  # before each of its answers, as served

    @property
    def same(self) -> bool:
        """Whether the server reads what training had before each answer."""
        return all(prompt == self.ids[: len(prompt)] for prompt in self.prompts)


def train_and_serve(kind: Kind, folder: Path, *words: str) -> Outcome:
    """Train on the data, serve the bundle, and ask it for each answer of the first row.

    Args:
        words: further ones of the command.
    """
    import effchal
    from effchal.mixing.encode import IGNORE_INDEX

    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        kind.write()
        cfg = effchal.load_config([*kind.words, *RUN, *words])
        run = effchal.train(cfg, folder / "run")
        data = prepare_data(cfg, folder)  # from the cache: what the run has read
    example = next(each for each in data.train if each.id.endswith(":0"))
    with served(run.bundle) as (prompt_ids, tokenizer):
        asked = [i for i, (role, _) in enumerate(kind.talk) if role == "assistant"]
        prompts = [prompt_ids(kind.talk[:i]) for i in asked] or [prompt_ids(kind.talk)]
        learned = tokenizer.decode(example.targets[example.targets != IGNORE_INDEX])
    *texts, rest = learned.split(tokenizer.eos_token)
    texts += [rest] * bool(rest)
    return Outcome(run.record, data.sha256, example.ids.tolist(), texts, prompts)


@contextlib.contextmanager
def served(bundle: Path) -> Iterator[tuple[Callable[[Talk], list[int]], Any]]:
    """A server of the bundle: the ids that its engine reads for a request, and its tokenizer."""
    from effchal.model_source import check_model_source, load_engine
    from effchal.serving.app import make_app
    from support.seen_prompts import SeenPrompts

    cfg = replace(load_config(bundle / "config.yaml"), bundle=str(bundle))
    engine = load_engine(check_model_source(cfg))
    service = SeenPrompts(cfg)
    service.set_ready(engine)
    client = make_app(service).test_client()

    def prompt_ids(talk: Talk) -> list[int]:
        messages = [{"role": role, "content": text} for role, text in talk]
        chat = ("/v1/chat/completions", {"messages": messages})
        document = ("/v1/completions", {"prompt": talk[0][1]})
        path, body = document if talk[0][0] == "text" else chat
        answer = client.post(path, json=body | {"max_tokens": 1}).get_json()
        assert answer["usage"]["prompt_tokens"] == len(service.prompts[0]), answer
        return service.prompts[0]

    try:
        yield prompt_ids, engine.tokenizer
    finally:
        service.loaded().scheduler.stop()


def refusal(kind: Kind, folder: Path) -> tuple[str, float]:
    """What is said of the wrong version, and after how many seconds of a core."""
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        kind.spoil()
        begun = time.process_time()
        try:
            select_data(compose_config(list(kind.words)))
        except ConfigError as error:
            return str(error), time.process_time() - begun
    return "nothing", time.process_time() - begun
