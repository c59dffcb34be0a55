"""One architecture through training and decoding, each compared with transformers alone.

A check returns its largest error, and raises ConfigError where the program refuses the model.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effchal.config import LoraConfig, ModelConfig, TrainConfig
from effchal.config.choices import Dtype
from effchal.decoding import engine as engine_module
from effchal.decoding.contrast import Dola, Greedy
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.taps import TappedModel
from effchal.mixing.packing import EncodedExample, pack
from effchal.model.load import add_adapter, load_base_model, load_tokenizer
from effchal.model.structure import backbone
from effchal.training.layers import prepare_training
from effchal.training.step import train_step
from support.architectures import write_folder
from support.plain_reference import Reference, dola_logprobs, plain_name

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

    def base_model(self) -> nn.Module:
        return load_base_model(self.config, CPU)

    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = Engine(self.base_model(), load_tokenizer(self.config))
        return self._engine


def random_ids(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (length,), generator=generator).tolist()


PROMPTS = [random_ids(length, seed) for seed, length in enumerate(PROMPT_LENGTHS)]


# Training


def gradients(subject: Subject) -> float:
    """A step on packed examples: relative error of the adapter's gradients."""
    model = add_adapter(subject.base_model(), LoraConfig(r=4, target_modules=linear(subject)), 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # at 0, A would have no gradient
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    model.train()
    train = TrainConfig()
    prepare_training(model, train.activation_checkpointing, train.compile)
    caught: dict[str, torch.Tensor] = {}

    class Catch(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    caught[plain_name(name)] = parameter.grad.clone()

    examples = training_examples()
    encoded = [
        EncodedExample(str(i), ids, [*labels[1:], -100], False)
        for i, (ids, labels) in enumerate(examples)
    ]
    optimizer = Catch([p for p in model.parameters() if p.requires_grad], lr=0.0)
    train_step(model, optimizer, pack(encoded, 128, 1, packing=True), 1e9)
    expected = subject.reference.gradients(examples, model)
    found = torch.cat([caught[name].flatten() for name in expected])
    wanted = torch.cat([gradient.flatten() for gradient in expected.values()])
    return float((found - wanted).norm() / wanted.norm())


def training_examples() -> list[tuple[list[int], list[int]]]:
    """Ids and labels; the first third of each is a prompt without loss."""
    rows = [random_ids(length, 100 + length) for length in (5, 12, 30, 45)]
    return [(ids, [-100] * (len(ids) // 3) + ids[len(ids) // 3 :]) for ids in rows]


def linear(subject: Subject) -> list[str]:
    """Names of the linear layers of the decoder, routers left out."""
    model = subject.base_model()
    inside = backbone(model).named_modules()
    last = {name.rpartition(".")[2] for name, m in inside if isinstance(m, nn.Linear)}
    return sorted(name for name in last if "router" not in name and name != "shared_expert_gate")


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
    contrasts, worst = [Greedy(), Dola(LAYERS, relative_top=0.0)], 0.0  # drops no token
    scorer = Scorer(subject.engine().model)
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
    ids, worst = PROMPTS[3], 0.0
    expected = subject.reference.read(ids).hidden
    layers = tuple((layer, False) for layer in range(tapped.num_layers))
    at = torch.arange(len(ids))
    with torch.inference_mode():
        states = tapped.states(torch.tensor([ids]), at[None], None, None, layers, at)
    for found, wanted in zip(states, expected, strict=True):
        worst = max(worst, float((found - wanted).norm() / wanted.norm()))
    return worst


def logprobs_at(
    reference: Reference, ids: list[int], at: range, contrast: Any, decoding: bool
) -> list[torch.Tensor]:
    """(V,) float64 each, of the next token at some positions."""
    run = reference.decode(ids) if decoding else reference.read(ids)
    if contrast == Greedy():
        return list(run.logits[at.start : at.stop].double().log_softmax(-1))
    early = torch.stack([reference.head(run.hidden[layer][at.start : at.stop]) for layer in LAYERS])
    keep = contrast.relative_top
    return [dola_logprobs(run.logits[t], early[:, i], keep) for i, t in enumerate(at)]


class small_pieces:
    """Prompts are read in pieces, as long ones are."""

    def __enter__(self) -> None:
        self._before, engine_module.PROMPT_CHUNK = engine_module.PROMPT_CHUNK, PIECE

    def __exit__(self, *_: Any) -> None:
        engine_module.PROMPT_CHUNK = self._before


CHECKS: dict[str, tuple[Callable[[Subject], float], float]] = {  # and the error allowed
    "gradients": (gradients, 1e-4),
    "greedy": (greedy, 1e-3),
    "echo": (echo, 1e-3),
    "scoring": (scoring, 1e-3),
    "taps": (taps, 1e-4),
    "dola": (dola, 1e-3),
}
