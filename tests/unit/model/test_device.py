"""Which device is taken, what it computes in, and what the process may take of it."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from support.configs import compose_config
from support.pretended_card import GIB, pretend_card

from effchal.config import ConfigError, ModelConfig
from effchal.config.choices import Dtype
from effchal.evaluation.answers import EvaluationTask
from effchal.model import device
from effchal.model.device import (
    CUDA_CONTEXT,
    check_dtype,
    limit_gpu_memory,
    pick_device,
    pick_dtype,
)
from effchal.model.load import load_base_model
from effchal.model_source import check_model_source
from effchal.serving.app import start_app
from effchal.serving.service import Service

CARD = torch.device("cuda", 0)
VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.fixture(autouse=True)
def _cudnn_attention_again():
    device._tell_choice.cache_clear()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(True)


def test_the_cpu_is_taken_without_a_card_and_keeps_its_settings():
    assert pick_device() == torch.device("cpu")
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_cudnn_attention_is_off_on_a_card(monkeypatch):
    pretend_card(monkeypatch)
    assert pick_device() == CARD
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_the_current_card_is_taken_and_told_once(monkeypatch, caplog):
    pretend_card(monkeypatch, count=3, current=2)
    assert pick_device() == torch.device("cuda", 2)
    assert pick_device() == torch.device("cuda", 2)
    (line,) = caplog.messages
    assert "cuda:2, NVIDIA GeForce RTX 4090, one of 3 visible cards" in line
    assert "CUDA_VISIBLE_DEVICES" in line


def test_the_only_card_needs_no_line(monkeypatch, caplog):
    pretend_card(monkeypatch)
    pick_device()
    assert not caplog.messages


def test_bfloat16_is_not_assumed_of_a_card(monkeypatch, caplog):
    pretend_card(monkeypatch, "Tesla T4", major=7)
    assert pick_dtype(Dtype.auto, CARD) is torch.float32
    check_dtype(Dtype.auto, CARD)
    assert "Tesla T4 has no bfloat16 arithmetic" in caplog.text
    pretend_card(monkeypatch, major=8)
    assert pick_dtype(Dtype.auto, CARD) is torch.bfloat16
    caplog.clear()
    check_dtype(Dtype.bfloat16, CARD)
    assert not caplog.messages


def test_bfloat16_is_refused_where_it_would_be_emulated(monkeypatch):
    pretend_card(monkeypatch, "Tesla V100-SXM2-16GB", major=7)
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.bfloat16)
    with pytest.raises(ConfigError, match=r"V100.*model.dtype=auto computes in float32"):
        load_base_model(cfg, CARD)


def test_a_card_that_is_not_here_is_planned_with_bfloat16():
    assert pick_dtype(Dtype.auto, torch.device("cuda")) is torch.bfloat16


@pytest.fixture
def shares(monkeypatch):
    """What torch was told that this process may take."""
    told = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, _: told.append(share)
    )
    return told


def test_a_smaller_card_is_tried_on_a_larger_one(monkeypatch, shares):
    pretend_card(monkeypatch, total_gib=80.0)
    limit_gpu_memory(24.0, CARD)
    assert shares == [pytest.approx((24 * GIB - CUDA_CONTEXT) / (80 * GIB))]


@pytest.mark.parametrize("memory_gib", [None, 23.64, 40.0])
def test_a_card_that_is_no_larger_is_not_limited(monkeypatch, shares, memory_gib):
    pretend_card(monkeypatch)
    limit_gpu_memory(memory_gib, CARD)
    assert shares == []


def test_an_evaluation_is_limited_before_its_model_is_loaded(monkeypatch):
    told = []
    monkeypatch.setattr(device, "limit_gpu_memory", lambda *given: told.append(given))
    cfg = compose_config(["model=tiny", "lora=none", "evaluate.memory_gib=20"])
    task = EvaluationTask(cfg, check_model_source(cfg), [], None)
    assert task.engine
    assert told == [(20.0, torch.device("cpu"))]


def test_a_server_is_limited_before_its_model_is_loaded(monkeypatch):
    told, loaded = [], threading.Event()
    monkeypatch.setattr(device, "limit_gpu_memory", lambda *given: told.append(given))
    monkeypatch.setattr(Service, "set_ready", lambda *_: loaded.set())
    cfg = compose_config(["model=tiny", "lora=none", "serve.memory_gib=20"])
    start_app(cfg, [], loaded.set)
    assert loaded.wait(60)
    assert told == [(20.0, torch.device("cpu"))]


@pytest.mark.parametrize("key", ["serve.memory_gib=0", "evaluate.memory_gib=-1"])
def test_no_memory_at_all_is_refused(key):
    with pytest.raises(ConfigError, match=r"memory_gib"):
        compose_config([key])


@pytest.mark.integration
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["expandable_segments:True", None]),
        ({VARIABLES[0]: "max_split_size_mb:64"}, ["max_split_size_mb:64", None]),
        ({VARIABLES[1]: "backend:native"}, [None, "backend:native"]),
    ],
)
def test_the_allocator_is_told_before_torch_is_imported(given, expected):
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    told = f"[os.environ.get(name) for name in {VARIABLES}], 'torch' in sys.modules"
    code = f"import sys, os, effchal; print({told})"
    found = subprocess.run([sys.executable, "-c", code], env=kept | given, capture_output=True)
    assert found.stdout.decode().strip() == f"{expected} False"
