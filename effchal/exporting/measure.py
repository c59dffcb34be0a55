"""Does an export answer as the bundle's own engine does? Greedy tokens and their probabilities."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from effchal.config import ConfigError
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.model.merge import MOST_NATS
from effchal.prompts.encoder import PromptEncoder, Turn

QUESTIONS = (
    "Why is the sky blue?",
    "Name three prime numbers above ten.",
    "Translate into French: Good morning, my friend!",
    "Write a Python function that returns the n-th Fibonacci number.",
)
NEW_TOKENS = 32


@dataclass(frozen=True)
class Answer:
    """What the bundle's engine answers greedily."""

    prompt_ids: list[int]
    ids: list[int]  # with the end token, where there is one
    logprobs: list[float]  # of `ids`


@dataclass(frozen=True)
class Reference:
    """The answers that an export is compared with."""

    answers: list[Answer]
    ends: list[int]  # ids that end an answer


@dataclass(frozen=True)
class Measured:
    """How an export that was read back answers the same prompts."""

    reader: str
    prompts: int
    same_prompts: int  # that its chat template spells in the same ids
    tokens: int  # greedy ones of the engine, ends included
    same_tokens: int  # before the first other one of each answer
    nats_mean: float  # between the log-probabilities of the engine's tokens
    nats_max: float

    def lines(self) -> list[str]:
        return [
            f"read back by {self.reader}, compared with the bundle's own engine:",
            f"  prompts spelled the same: {self.same_prompts} of {self.prompts}",
            f"  greedy tokens the same: {self.same_tokens} of {self.tokens}",
            f"  log-probabilities apart: {self.nats_mean:.2g} nats on average, "
            f"{self.nats_max:.2g} at most",
        ]


def reference(engine: Engine, encoder: PromptEncoder) -> Reference:
    """Greedy answers of the bundle's engine to the fixed questions."""
    prompts = [encoder.prompt_ids([Turn("user", question)]) for question in QUESTIONS]
    params = SamplingParams(max_new_tokens=NEW_TOKENS)
    completions = engine.generate(prompts, [[params]] * len(prompts), len(prompts))
    answers = [
        Answer(ids, each.ids, [token.base_logprob for token in each.all_tokens])
        for ids, (each,) in zip(prompts, completions, strict=True)
    ]
    return Reference(answers, sorted(engine.ends))


@torch.inference_mode()
def measure(model: Any, tokenizer: Any, expected: Reference, reader: str) -> Measured:
    """Compare a model and a tokenizer of transformers with the engine.

    Args:
        reader: name of the package that read the export.
    """
    same_tokens = sum(_same_tokens(model, each, expected.ends) for each in expected.answers)
    apart = torch.cat([_nats_apart(model, each) for each in expected.answers])
    return Measured(
        reader=f"{reader} {importlib.metadata.version(reader)}",
        prompts=len(QUESTIONS),
        same_prompts=sum(
            chat_ids(tokenizer, question) == each.prompt_ids
            for question, each in zip(QUESTIONS, expected.answers, strict=True)
        ),
        tokens=sum(len(each.ids) for each in expected.answers),
        same_tokens=same_tokens,
        nats_mean=float(apart.mean()) if len(apart) else 0.0,
        nats_max=float(apart.max()) if len(apart) else 0.0,
    )


def check(measured: Measured) -> None:
    """Raises ConfigError if the export is another model than the bundle."""
    if measured.same_prompts < measured.prompts:
        raise ConfigError(
            f"the exported chat template spells {measured.prompts - measured.same_prompts} of "
            f"{measured.prompts} prompts otherwise than the training; nothing was exported"
        )
    if not measured.nats_mean <= MOST_NATS:  # also where it is no number
        raise ConfigError(
            f"the export answers otherwise than the bundle: log-probabilities are "
            f"{measured.nats_mean:.2g} nats apart on average, {MOST_NATS} may be; "
            "nothing was exported"
        )


def chat_ids(tokenizer: Any, question: str) -> list[int]:
    """A prompt as programs build it from a tokenizer's chat template."""
    chat = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def _same_tokens(model: Any, answer: Answer, ends: Sequence[int]) -> int:
    """Tokens before the first one that the model chooses otherwise."""
    prompt = torch.tensor([answer.prompt_ids], device=model.device)
    found = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=list(ends),
        pad_token_id=ends[0],
    )[0, prompt.shape[1] :].tolist()
    same = [a == b for a, b in zip(answer.ids, found, strict=False)]
    return same.index(False) if False in same else len(same)


def _nats_apart(model: Any, answer: Answer) -> torch.Tensor:
    """(T,) float64: how far the log-probabilities of the engine's T tokens are apart."""
    ids = torch.tensor([answer.prompt_ids + answer.ids], device=model.device)
    logits = model(input_ids=ids).logits[0, len(answer.prompt_ids) - 1 : -1]
    chosen = ids[0, len(answer.prompt_ids) :, None]
    found = logits.double().log_softmax(-1).gather(1, chosen)[:, 0].cpu()
    return (found - torch.tensor(answer.logprobs, dtype=torch.float64)).abs()
