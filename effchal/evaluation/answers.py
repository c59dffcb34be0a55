"""Answers of one model to the instances of a scenario, under several decodings at once."""

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from effchal.config import Config
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.sequence import Completion
from effchal.evaluation.results import Record, Records
from effchal.evaluation.scenarios import (
    Instance,
    Scenario,
    ScenarioError,
    score_choices,
    score_completion,
)
from effchal.evaluation.variants import LONGEST, Variant, for_choices
from effchal.model_source import ModelSource, load_engine
from effchal.prompts import PromptEncoder, Turn

PREFIX_WORTH_HOLDING = 32  # tokens that all prompts of an entry share


class Window:
    """The tokenizer as scenarios see it."""

    def __init__(self, tokenizer: Any, encoder: PromptEncoder) -> None:
        self._tokenizer, self.encode = tokenizer, encoder.text_ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


@dataclass(frozen=True)
class Encoded:
    """An instance in ids."""

    prompt: list[int]
    choices: list[list[int]] = field(default_factory=list)


@dataclass
class Job:
    """What an evaluation works with; the engine is loaded when something is left to do."""

    cfg: Config
    subject: ModelSource
    variants: list[Variant]
    records: Records
    engine: Engine | None = None
    scorer: Scorer | None = None
    shared: int = 0  # tokens that all prompts of the scenario in hand begin with

    def load(self) -> None:
        if self.engine is None:
            self.engine = load_engine(self.subject)
            self.scorer = Scorer(self.engine.model)


def answers(job: Job, scenario: Scenario, encoded: list[Encoded]) -> Iterator[list[Record]]:
    """Records of all instances, some at a time, in their order.

    The instances that decode together are the same however often the evaluation was killed, so a resumed one gives
    the same bits.

    Args:
        encoded: what `encode` gave for the instances.
    """
    choices = bool(scenario.instances[0].choices)
    ask = score_group if choices else generate_group
    shared = common_prefix([each.prompt for each in encoded])
    job.shared = shared if shared >= PREFIX_WORTH_HOLDING and len(encoded) > 1 else 0
    rows, held = job.cfg.evaluate.rows_at_once, False
    for first in range(0, len(encoded), rows):
        instances, inputs = scenario.instances[first : first + rows], encoded[first : first + rows]
        known = [job.records.get(scenario.entry, instance.id) for instance in instances]
        for instance, record in zip(instances, known, strict=True):
            if record and record["prompt_sha256"] != digest(instance):
                raise ScenarioError(
                    f"{scenario.entry}: the prompt of {instance.id} is not the one recorded; bring the data back"
                )
        if all(known):
            yield known
            continue
        if not held:
            held = True
            prepare_engine(job, encoded[0].prompt[: job.shared], choices)
        try:
            yield ask(job, scenario, instances, inputs)
        except FloatingPointError as error:
            ids = ", ".join(instance.id for instance in instances)
            raise FloatingPointError(f"{scenario.entry}, one of {ids}: {error}") from error


def prepare_engine(job: Job, prefix: list[int], choices: bool) -> None:
    job.load()
    if prefix and not choices:
        job.engine.hold_prefix(prefix)


def common_prefix(rows: list[list[int]]) -> int:
    """How many ids all rows begin with, one of each row left over."""
    low, high = min(rows), max(rows)
    count = next(
        (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b),
        min(len(low), len(high)),
    )
    return min(count, min(map(len, rows)) - 1)


def digest(instance: Instance) -> str:
    return hashlib.sha256(repr((instance.prompt, instance.choices)).encode()).hexdigest()[:16]


def encode(scenario: Scenario, encoder: PromptEncoder, max_positions: int) -> list[Encoded]:
    """Ids of every instance, all of them before any is answered.

    A prompt to answer is put into the template, as the server does with HELM's requests. A prompt with choices is, with
    each of them, a text to score as it stands: tokenized as one, and where a token would straddle the border, the
    prompt ends before it.

    Raises:
        ScenarioError: an instance that the model has no positions for.
    """
    encoded = []
    for instance in scenario.instances:
        if not instance.choices:
            each = Encoded(encoder.prompt_ids([Turn("user", instance.prompt)]) or [encoder.eos_id])
        else:
            whole = [encoder.text_ids(instance.prompt + choice) for choice in instance.choices]
            alone = [*encoder.text_ids(instance.prompt), -1]
            border = min(common_prefix([ids, alone]) for ids in whole)
            prompt = encoder.bos_ids + whole[0][:border]
            each = Encoded(prompt or [encoder.eos_id], [ids[border:] for ids in whole])
        tokens = len(each.prompt) + max([scenario.max_new_tokens, *map(len, each.choices)])
        if tokens > max_positions:
            needs = f"{instance.id} needs {tokens} tokens, prompt and answer; this model holds {max_positions}"
            raise ScenarioError(f"{scenario.entry}: {needs}")
        encoded.append(each)
    return encoded


def generate_group(
    job: Job, scenario: Scenario, instances: tuple[Instance, ...], inputs: list[Encoded]
) -> list[Record]:
    """Records of instances that are answered by generated text."""
    prompts = [each.prompt for each in inputs]
    params = [
        [params_of(job, scenario, instance, variant) for variant in job.variants]
        for instance in instances
    ]
    found = job.engine.generate(prompts, params, len(prompts))
    records = []
    for instance, completions in zip(instances, found, strict=True):
        named = zip(job.variants, completions, strict=True)
        decodings = {
            variant.name: told(scenario, instance, completion) for variant, completion in named
        }
        if instance.letters and wants_length_control(job):
            first = next(iter(decodings.values()))["text"]
            decodings[LONGEST] = longest_by_letter(scenario, instance, first)
        records.append(record(scenario, instance, decodings))
    return records


def wants_length_control(job: Job) -> bool:
    return job.cfg.sweep.controls and any(variant.contrast.layers for variant in job.variants)


def longest_by_letter(scenario: Scenario, instance: Instance, baseline: str) -> dict[str, Any]:
    """The letter of the longest listed text, written as the baseline writes that letter."""
    length = [len(reference.text) for reference in instance.references]
    text = instance.letters[length.index(max(length))]
    text = baseline if baseline.strip() == text else text
    return {"text": text, "metrics": score_completion(scenario, instance, text)}


def params_of(job: Job, scenario: Scenario, instance: Instance, variant: Variant) -> SamplingParams:
    return SamplingParams(
        max_new_tokens=scenario.max_new_tokens,
        temperature=scenario.temperature if variant.temperature is None else variant.temperature,
        top_p=variant.top_p,
        stops=scenario.stops,
        first_line=job.cfg.decoding.end_at_first_line and not scenario.stops,
        seed=zlib.crc32(f"{scenario.entry} {instance.id}".encode()),
        contrast=variant.contrast,
        repetition_penalty=variant.repetition_penalty,
    )


def told(scenario: Scenario, instance: Instance, completion: Completion) -> dict[str, Any]:
    """What the record says of one completion."""
    result: dict[str, Any] = {"text": completion.text, "finish_reason": completion.finish_reason}
    result["logprob"] = sum(token.logprob for token in completion.tokens)
    result["base_logprob"] = sum(token.base_logprob for token in completion.tokens)
    result["tokens"] = len(completion.ids)
    layers = Counter(str(token.layer) for token in completion.tokens if token.layer is not None)
    if layers:
        result["layers"] = dict(layers)
    return result | {"metrics": score_completion(scenario, instance, completion.text)}


def score_group(
    job: Job, scenario: Scenario, instances: tuple[Instance, ...], inputs: list[Encoded]
) -> list[Record]:
    """Records of instances that are answered by the likeliest of given choices."""
    names = for_choices(job.variants)
    records = []
    for instance, each in zip(instances, inputs, strict=True):
        decodings: dict[str, Any] = {}
        scores = job.scorer.score(each.prompt, each.choices, list(names), job.shared)
        for name, found in zip(names.values(), scores, strict=True):
            decodings[name] = {
                "logprobs": found.logprobs,
                "metrics": score_choices(instance, found.logprobs),
            }
            if found.layers:
                decodings[name]["layers"] = {
                    str(layer): count for layer, count in found.layers.items()
                }
        if wants_length_control(job):
            lengths = [len(ids) * math.log(job.engine.model.vocabulary) for ids in each.choices]
            decodings[LONGEST] = {"logprobs": lengths, "metrics": score_choices(instance, lengths)}
        records.append(record(scenario, instance, decodings))
    return records


def record(scenario: Scenario, instance: Instance, decodings: dict[str, Any]) -> Record:
    head = {
        "entry": scenario.entry,
        "id": instance.id,
        "split": instance.split,
        "prompt_sha256": digest(instance),
    }
    return head | {"decodings": decodings}
