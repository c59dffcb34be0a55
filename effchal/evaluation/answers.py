"""Answers of one model to the instances of a scenario, under several decodings at once."""

import logging
import math
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from effchal.config import Config
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.sequence import Completion
from effchal.evaluation.encoding import EncodedInstance, settings_of
from effchal.evaluation.questions.grader import GraderError
from effchal.evaluation.results import LONGEST, Answer, ChoiceAnswer, Record, Records, TextAnswer
from effchal.evaluation.scenarios.metrics import score_choices, score_completion
from effchal.evaluation.scenarios.types import Instance, Scenario, ScenarioError
from effchal.evaluation.shared_engine import SharedEngine
from effchal.evaluation.variants import Variant, contrasts_of
from effchal.model.adapter_names import BASE
from effchal.model_source import ModelSource, load_engine
from effchal.tracking.terminal import progress

log = logging.getLogger("effchal.evaluate")
told_of_failures: set[str] = set()  # functions that grade: one failure of each is told at once


@dataclass
class EvaluatedModel:
    """A model and the decodings to compare."""

    cfg: Config
    source: ModelSource
    variants: list[Variant]
    shared: SharedEngine | None = field(default=None, kw_only=True)  # with other models of a sweep

    @cached_property
    def engine(self) -> Engine:
        """Loads the model at first use: a resumed evaluation may have nothing left to answer."""
        with progress("loading the model"):
            if self.shared is None:
                engine = load_engine(self.source, self.cfg.evaluate.memory_gib)
            else:
                engine = self.shared.engine
        for variant in self.variants:
            engine.model.check(variant.contrast)
        return engine

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.engine.model, self.adapter)

    @property
    def adapter(self) -> str:
        """As the engine names it."""
        return BASE if self.shared is None else self.shared.adapter(self.source.bundle)

    @property
    def is_loaded(self) -> bool:
        return "engine" in self.__dict__

    @property
    def wants_length_control(self) -> bool:
        contrasts = any(variant.contrasts_layers for variant in self.variants)
        return self.cfg.sweep.controls and contrasts


@dataclass
class EvaluationTask(EvaluatedModel):
    """The model with the records so far."""

    records: Records
    ends: frozenset[int] = frozenset()  # tokens that end an answer in the prompt's template


@dataclass(frozen=True)
class TaskBatch:
    """One scenario for one model."""

    task: EvaluationTask
    scenario: Scenario
    encoded: list[EncodedInstance]  # `encode` of the scenario, or a batch of it


def recorded(records: Records, batch: list[EncodedInstance]) -> list[Record]:
    """The records that the batch has already. Raises ScenarioError if a prompt has changed."""
    found = []
    for each in batch:
        record = records.get(each.entry, each.instance.key)
        if record and record.prompt_sha256 != each.digest:
            raise ScenarioError(
                f"{each.entry}: the prompt of {each.instance.key} is not the one recorded; "
                "bring the data back"
            )
        found += [record] if record else []
    return found


def text_record(
    batch: TaskBatch, encoded: EncodedInstance, completions: list[Completion]
) -> Record:
    task, scenario, instance = batch.task, batch.scenario, encoded.instance
    decodings: dict[str, Answer] = {}
    for variant, completion in zip(task.variants, completions, strict=True):
        metrics = score_if_possible(scenario, instance, completion.text)
        decodings[variant.name] = TextAnswer(**described(completion), metrics=metrics)
    if instance.letters and task.wants_length_control:
        decodings[LONGEST] = longest_option(scenario, instance, completions[0].text)
    return encoded.record(decodings)


def longest_option(scenario: Scenario, instance: Instance, baseline: str) -> TextAnswer:
    """The option letter of the longest text, written as the baseline writes that letter."""
    lengths = [len(reference.text) for reference in instance.references]
    text = instance.letters[lengths.index(max(lengths))]
    text = baseline if baseline.strip() == text else text
    return TextAnswer(text=text, metrics=score_completion(scenario, instance, text))


def params_of(
    task: EvaluationTask, scenario: Scenario, instance: Instance, variant: Variant
) -> SamplingParams:
    settings, temperature = settings_of(scenario, instance), variant.temperature
    drawn = f"{scenario.entry} {instance.key}"
    drawn = drawn if variant.seed is None else f"{drawn} {variant.seed}"
    return SamplingParams(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature if temperature is None else temperature,
        top_p=variant.top_p,
        stops=settings.stops,
        first_line=task.cfg.decoding.end_at_first_line and not settings.stops,
        seed=zlib.crc32(drawn.encode()),
        contrast=variant.contrast,
        repetition_penalty=variant.repetition_penalty,
        ends=task.ends,
    )


def described(completion: Completion) -> dict[str, Any]:
    """What is kept of an answer, by the names of TextAnswer's fields."""
    layers = Counter(str(token.layer) for token in completion.tokens if token.layer is not None)
    values = {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "logprob": sum(token.logprob for token in completion.tokens),
        "base_logprob": sum(token.base_logprob for token in completion.tokens),
        "tokens": len(completion.ids),
    }
    return values | ({"layers": dict(layers)} if layers else {})


def score_if_possible(scenario: Scenario, instance: Instance, text: str) -> dict[str, float]:
    """Scores of an answer; none where the user's function fails, so that no answer is lost."""
    try:
        return score_completion(scenario, instance, text)
    except GraderError as error:
        if error.label not in told_of_failures:
            told_of_failures.add(error.label)
            log.warning("%s; the answers go on, and are graded again at the end", error)
        return {}


def score_batch(batch: TaskBatch, prefix_tokens: int) -> list[Record]:
    """Records of instances that are answered by the most likely of given choices.

    Args:
        prefix_tokens: tokens that the prompts of the whole scenario begin with.
    """
    task, scenario = batch.task, batch.scenario
    contrasts = contrasts_of(task.variants)
    records = []
    for each in batch.encoded:
        prompt, choices = each.prompt_ids, each.choice_ids
        scores = task.scorer.score(prompt, choices, list(contrasts), prefix_tokens)
        decodings: dict[str, Answer] = {}
        for (contrast, name), found in zip(contrasts.items(), scores, strict=True):
            layers = {str(layer): count for layer, count in found.layers.items()}
            answer = choice_answer(each.instance, found.logprobs, layers)
            names = [name]
            if scenario.mixes_kinds:  # the decodings of the questions beside it
                names = [v.name for v in task.variants if v.contrast == contrast]
            decodings |= dict.fromkeys(names, answer)
        if task.wants_length_control:
            # log V for each token: every model would give a longer choice less.
            per_token = math.log(task.engine.model.vocabulary)
            lengths = [len(ids) * per_token for ids in choices]
            decodings[LONGEST] = choice_answer(each.instance, lengths, {})
        records.append(each.record(decodings))
    return records


def choice_answer(
    instance: Instance, logprobs: list[float], layers: dict[str, int]
) -> ChoiceAnswer:
    scores = instance.own.grade(logprobs) if instance.own else score_choices(instance, logprobs)
    return ChoiceAnswer(logprobs, scores, layers or None)
