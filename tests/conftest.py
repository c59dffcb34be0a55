"""Fixtures of several test modules: the real small model, a tiny config, engine and server."""

import gc
import itertools
import logging
import os
import subprocess
import sys

import pytest
from support.paths import ROOT, SMOLLM2, needs_smollm2

from effchal.config import (
    BudgetConfig,
    Config,
    DataMixConfig,
    DataSourceConfig,
    DecodingConfig,
    ModelConfig,
    PromptConfig,
    ServeConfig,
)
from effchal.config import TrainConfig as Train
from effchal.config.choices import DataFormat, Dtype

TESTS = itertools.count()
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches a hub; set before the client is imported


def pytest_collection(session):
    """Imports make no garbage to speak of, and looking for it again and again takes seconds."""
    gc.disable()


def pytest_collection_finish(session):
    """What lives from now on to the end need not be looked through again, nor the rest so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def pytest_ignore_collect(collection_path, config):
    """The unit tests alone import nothing of the others."""
    is_folder = collection_path == ROOT / "tests" / "integration"
    return True if is_folder and config.option.markexpr == "unit" else None


def pytest_collection_modifyitems(items):
    """Mark each test `unit` or `integration`: by folder, but for what is slow under tests/unit."""
    have_smollm2 = (SMOLLM2 / "model.safetensors").is_file()
    skip = pytest.mark.skip(reason="no small model; run: python scripts/fetch.py smollm2_135m")
    for item in items:
        slow = item.get_closest_marker("integration") or item.get_closest_marker("smollm2")
        unit = item.path.is_relative_to(ROOT / "tests" / "unit") and not slow
        item.add_marker("unit" if unit else "integration")
        if item.get_closest_marker("smollm2") and not have_smollm2:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _info_logs():
    """Set only where it is not: setting a level forgets what all loggers have looked up."""
    logger = logging.getLogger("effchal")
    if logger.level != logging.INFO:
        logger.setLevel(logging.INFO)


@pytest.fixture(autouse=True)
def _no_python_process(request, monkeypatch):
    """Starting Python takes seconds of imports, so a test that does is no unit test."""
    if request.node.get_closest_marker("unit"):
        original = subprocess.Popen.__init__

        def start(process, args, *rest, **options):
            words = [args] if isinstance(args, (str, os.PathLike)) else list(args)
            assert str(words[0]) != sys.executable, "mark this test: @pytest.mark.integration"
            original(process, args, *rest, **options)

        monkeypatch.setattr(subprocess.Popen, "__init__", start)


@pytest.fixture(autouse=True)
def _own_records(tmp_path_factory, monkeypatch):
    """No plan of a test knows of runs of another one, nor of the user's.

    The folder is made by what needs it, which few tests do.
    """
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(TESTS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture
def tiny_cfg() -> Config:
    """Six fast steps on the shipped examples."""
    return Config(
        model=ModelConfig(name="builtin:tiny", dtype=Dtype.float32, max_seq_len=512),
        data_mix=DataMixConfig(
            sources={
                "talk": DataSourceConfig(
                    path="builtin:conversations.jsonl", format=DataFormat.lima
                ),
                "tasks": DataSourceConfig(
                    path="builtin:instructions.jsonl", format=DataFormat.platypus
                ),
            }
        ),
        train=Train(
            max_steps=6,
            examples_per_step=4,
            lr=1e-2,
            warmup_steps=1,
            validate_every=3,
            checkpoint_every=2,
        ),
        budget=BudgetConfig(hours=1.0, reserve_minutes=1.0),
    )


@pytest.fixture(scope="session")
def tiny_engine():
    import torch

    from effchal.decoding.engine import Engine
    from effchal.model.load import load_base_model
    from effchal.model.tokenizer import load_tokenizer

    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
    return Engine(load_base_model(cfg, torch.device("cpu")), load_tokenizer(cfg))


@pytest.fixture(scope="session")
def row_by_row_engine():
    """The tiny model by the library's own cache, as architectures of other kinds decode."""
    import torch

    from effchal.decoding.engine import Engine
    from effchal.model.load import load_base_model
    from effchal.model.route import Decoding, Route, set_route
    from effchal.model.tokenizer import load_tokenizer

    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
    model = load_base_model(cfg, torch.device("cpu"))
    set_route(model, Route(decoding=Decoding.library))
    return Engine(model, load_tokenizer(cfg))


@pytest.fixture(scope="session")
def loaded_smollm2():
    import torch

    from effchal.model.load import load_base_model
    from effchal.model.tokenizer import load_tokenizer

    cfg = ModelConfig(name=str(SMOLLM2), dtype=Dtype.float32)
    return load_base_model(cfg, torch.device("cpu")), load_tokenizer(cfg)


@pytest.fixture
def smollm2(loaded_smollm2):
    """The real small model in float32, and its tokenizer."""
    model, tokenizer = loaded_smollm2
    model.set_attn_implementation("sdpa")  # an earlier test may have set it up for packed rows
    return model, tokenizer


@pytest.fixture(params=["tiny", pytest.param("smollm2", marks=needs_smollm2)])
def engine(request, tiny_engine):
    from effchal.decoding.engine import Engine

    return tiny_engine if request.param == "tiny" else Engine(*request.getfixturevalue("smollm2"))


@pytest.fixture
def serving_cfg() -> Config:
    return Config(
        model=ModelConfig(name="builtin:tiny", dtype=Dtype.float32),
        prompt=PromptConfig(user="Q: {content}\nA:", after_answer="\n"),
        lora=None,
        decoding=DecodingConfig(max_new_tokens=5),
        serve=ServeConfig(max_prompt_tokens=200, max_new_tokens=50, max_rows=4),
    )


@pytest.fixture
def service(serving_cfg, tiny_engine):
    from effchal.serving.service import Service

    service = Service(serving_cfg, "tiny")
    service.set_ready(tiny_engine)
    model = service.loaded()
    yield service
    model.scheduler.stop()
    tiny_engine.clear()


@pytest.fixture
def client(service):
    from effchal.serving.app import make_app

    return make_app(service).test_client()


@pytest.fixture
def start(tiny_engine):
    """A scheduler on the tiny engine, by serve.* keys; stopped at the end."""
    from effchal.decoding.prefix_cache import PrefixCache
    from effchal.serving.metrics import Metrics
    from effchal.serving.scheduler import Scheduler

    started = []

    def make(engine=tiny_engine, **keys):
        scheduler = Scheduler(engine, ServeConfig(**keys), Metrics())
        started.append(scheduler)
        return scheduler

    yield make
    for scheduler in started:
        scheduler.stop()
    tiny_engine.clear()
    tiny_engine.prefix_cache = PrefixCache(float("inf"))
