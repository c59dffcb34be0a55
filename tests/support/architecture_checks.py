"""One architecture through training and decoding, each compared with transformers alone.

A check returns its largest error, and raises ConfigError where the program refuses the model.
"""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from effchal.admission.admit import TrainingAdmission
from effchal.config import (
    BudgetConfig,
    Config,
    ConfigError,
    DataMixConfig,
    DataSourceConfig,
    LoraConfig,
    ModelConfig,
    TrainConfig,
)
from effchal.config.choices import DataFormat, Dtype
from effchal.decoding import reading as reading_module
from effchal.decoding.contrast import Dola, Greedy
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.taps import NewTokens, TappedModel
from effchal.mixing.encode import EncodedExample
from effchal.mixing.packing import pack
from effchal.model.load import add_adapter, load_base_model
from effchal.model_source import check_model_source, inference_config, load_engine
from effchal.serving.app import make_app
from effchal.serving.service import Service
from effchal.training.layers import prepare_training
from effchal.training.step import train_step
from support.architectures import write_folder
from support.plain_reference import Reference, dola_logprobs, plain_name
from support.training_runs import record
from support.training_runs import run as run_training

CPU = torch.device("cpu")
PROMPT_LENGTHS = (3, 9, 20, 31, 44, 60)  # around windows of 8 and a rope's switch at 32
PIECE = 16  # prompt tokens in one forward pass
NEW_TOKENS = 14
LAYERS = (0, 2)
TIE = 1e-4  # nats between two best tokens that rounding may swap


class Subject:
    """A model's folder, the reference that reads it, and the program's own loading of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, write_folder(name, folder)
        self.config = ModelConfig(name=str(folder), dtype=Dtype.float32, max_seq_len=128)
        self.reference = Reference(name, folder)
        self._engine: Engine | None = None

    def training_config(self) -> Config:
        """Of two steps on the shipped examples."""
        source = DataSourceConfig(path="builtin:instructions.jsonl", format=DataFormat.platypus)
        return Config(
            model=self.config,
            data_mix=DataMixConfig(sources={"tasks": source}, validation_fraction=0.05),
            lora=LoraConfig(r=4, target_modules="all-linear"),
            train=TrainConfig(max_steps=2, examples_per_step=4, validate_every=2),
            budget=BudgetConfig(hours=1.0, reserve_minutes=1.0),
        )

    def engine(self) -> Engine:
        """As a server loads it."""
        if self._engine is None:
            self._engine = load_engine(check_model_source(Config(model=self.config, lora=None)))
        return self._engine


def random_ids(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (length,), generator=generator).tolist()


PROMPTS = [random_ids(length, seed) for seed, length in enumerate(PROMPT_LENGTHS)]


# Training


def gradients(subject: Subject) -> float:
    """A step on packed examples: relative error of the adapter's gradients."""
    train, base = TrainConfig(), load_base_model(subject.config, CPU)
    admission = TrainingAdmission(base, subject.config.max_seq_len)
    model = add_adapter(base, LoraConfig(r=4, target_modules="all-linear"), 0)
    model.train()
    prepare_training(model, train.activation_checkpointing, train.compile)
    admission.confirm()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # at 0, A would have no gradient
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    caught: dict[str, torch.Tensor] = {}

    class Catch(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    caught[plain_name(name)] = parameter.grad.clone()

    examples = training_examples()
    encoded = [
        EncodedExample(str(i), np.array(ids), np.array([*labels[1:], -100]), False)
        for i, (ids, labels) in enumerate(examples)
    ]
    optimizer = Catch([p for p in model.parameters() if p.requires_grad], lr=0.0)
    train_step(model, optimizer, pack(encoded, 128, packing=True), 1e9)
    expected = subject.reference.gradients(examples, model)
    found = torch.cat([caught[name].flatten() for name in expected])
    wanted = torch.cat([gradient.flatten() for gradient in expected.values()])
    return float((found - wanted).norm() / wanted.norm())


def training_examples() -> list[tuple[list[int], list[int]]]:
    """Ids and labels; the first third of each is a prompt without loss."""
    rows = [random_ids(length, 100 + length) for length in (5, 12, 30, 45)]
    return [(ids, [-100] * (len(ids) // 3) + ids[len(ids) // 3 :]) for ids in rows]


# Decoding


def greedy(subject: Subject) -> float:
    """Texts of a batch, read in pieces: how far below the best a chosen token is, in nats."""
    return decoded(subject, Greedy())


def dola(subject: Subject) -> float:
    """As `greedy`, by DoLa's own scores."""
    return decoded(subject, Dola(LAYERS))


def decoded(subject: Subject, contrast: Any) -> float:
    engine, params = subject.engine(), SamplingParams(max_new_tokens=NEW_TOKENS, contrast=contrast)
    with small_pieces():
        answers = list(engine.generate(PROMPTS, [[params]] * len(PROMPTS), len(PROMPTS)))
    worst = 0.0
    for prompt, (answer,) in zip(PROMPTS, answers, strict=True):
        at = range(len(prompt) - 1, len(prompt) + len(answer.ids) - 1)
        expected = logprobs_at(subject.reference, [*prompt, *answer.ids], at, contrast, True)
        for row, token_id in zip(expected, answer.ids, strict=True):
            worst = max(worst, float(row.max() - row[token_id]) - TIE)
        for row, token in zip(expected, answer.tokens, strict=False):
            worst = max(worst, abs(float(row.max()) - token.logprob))
    return worst


def echo(subject: Subject) -> float:
    """Log-probabilities of prompts' own tokens, the largest error in nats."""
    params = SamplingParams(max_new_tokens=1, echo_from=0)
    worst = 0.0
    for prompt in PROMPTS:
        with small_pieces():
            answer = subject.engine().complete(prompt, params)
        expected = subject.reference.read(prompt).logits.log_softmax(-1)
        for t, token in enumerate(answer.tokens[1 : len(prompt)]):
            worst = max(worst, abs(float(expected[t, prompt[t + 1]]) - token.logprob))
    return worst


def scoring(subject: Subject) -> float:
    """Log-probabilities of continuations, the largest error in nats per token."""
    scorer, worst = Scorer(subject.engine().model), 0.0
    contrasts: list[Any] = [Greedy()]
    if subject.engine().model.route.taps:
        contrasts.append(Dola(LAYERS, relative_top=0.0))  # drops no token
    for prompt, prefix in zip(PROMPTS, (0, 4, 4, 0, 20, 20), strict=True):
        texts = [random_ids(length, 7 + length) for length in (1, 4, 19)]
        found = scorer.score(prompt, texts, contrasts, prefix)
        for (contrast, scores), (i, text) in itertools.product(
            zip(contrasts, found, strict=True), enumerate(texts)
        ):
            at = range(len(prompt) - 1, len(prompt) + len(text) - 1)
            rows = logprobs_at(subject.reference, [*prompt, *text], at, contrast, False)
            wanted = sum(float(row[token]) for row, token in zip(rows, text, strict=True))
            worst = max(worst, abs(wanted - scores.logprobs[i]) / len(text))
    return worst


def taps(subject: Subject) -> float:
    """States of every layer: the largest relative error."""
    tapped: TappedModel = subject.engine().model
    ids, worst, cache = PROMPTS[3], 0.0, tapped.new_cache()
    cache.add_row()
    expected = subject.reference.read(ids).hidden
    layers = tuple((layer, False) for layer in range(tapped.num_layers))
    with torch.inference_mode():
        new = NewTokens(cache, 0, torch.tensor([ids]))
        states = tapped.extend([new], layers, torch.arange(len(ids)))
    for found, wanted in zip(states, expected, strict=True):
        worst = max(worst, float((found - wanted).norm() / wanted.norm()))
    return worst


def logprobs_at(
    reference: Reference, ids: list[int], at: range, contrast: Any, decoding: bool
) -> list[torch.Tensor]:
    """(V,) float64 each, of the next token at some positions; nothing reads the last id."""
    run = reference.decode(ids, at.start) if decoding else reference.read(ids[:-1])
    if contrast == Greedy():
        return list(run.logits[at.start : at.stop].double().log_softmax(-1))
    early = torch.stack([reference.head(run.hidden[layer][at.start : at.stop]) for layer in LAYERS])
    keep = contrast.relative_top
    return [dola_logprobs(run.logits[t], early[:, i], keep) for i, t in enumerate(at)]


class small_pieces:
    """Prompts are read in pieces, as long ones are."""

    def __enter__(self) -> None:
        self._before, reading_module.PROMPT_CHUNK = reading_module.PROMPT_CHUNK, PIECE

    def __exit__(self, *_: Any) -> None:
        reading_module.PROMPT_CHUNK = self._before


# Commands


def commands(subject: Subject) -> float:
    """0 where two steps of training leave a bundle that a server answers a request from.

    The plan of the run, made from config.json alone, has the route that the server takes.
    """
    folder = subject.folder.with_name(subject.folder.name + "-run")
    code = run_training(subject.training_config(), folder)
    cfg = inference_config(Config(bundle=str(folder / "bundle")), [], set())
    service = Service(cfg, subject.name)
    engine = load_engine(check_model_source(cfg))
    service.set_ready(engine)
    try:
        body = {"prompt": "Once upon a time", "max_tokens": 4}
        answer = make_app(service).test_client().post("/v1/completions", json=body)
    finally:
        service.loaded().scheduler.stop()
    planned, route = json.loads((folder / "plan.json").read_text())["route"], engine.model.route
    same = all(planned[key] == route.report()[key] for key in ("packed", "plain_head", "taps"))
    finished = code == 0 and record(folder)["status"] == "finished"
    return 0.0 if finished and same and answer.status_code == 200 else math.inf


CHECKS: dict[str, tuple[Callable[[Subject], float], float]] = {  # and the error allowed
    "gradients": (gradients, 1e-4),
    "greedy": (greedy, 1e-3),
    "echo": (echo, 1e-3),
    "scoring": (scoring, 1e-3),
    "taps": (taps, 1e-4),
    "dola": (dola, 1e-3),
    "commands": (commands, 0.0),
}


def outcome(check: str, subject: Subject) -> str:
    """right, wrong by how much, or refused and why; an error that is no refusal is raised."""
    function, allowed = CHECKS[check]
    try:
        error = function(subject)
    except ConfigError as refusal:
        return f"refused: {refusal}"
    return "right" if error <= allowed else f"wrong by {error:.2g}"
