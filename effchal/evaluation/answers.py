"""Answers of one model to the instances of a scenario, under several decodings at once."""

import logging
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from effchal.config import Config
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.sequence import Completion
from effchal.evaluation.encoding import EncodedInstance, settings_of, shared_prefix
from effchal.evaluation.questions.grader import GraderError
from effchal.evaluation.results import LONGEST, Answer, ChoiceAnswer, Record, Records, TextAnswer
from effchal.evaluation.scenarios import (
    Instance,
    Scenario,
    ScenarioError,
    score_choices,
    score_completion,
)
from effchal.evaluation.variants import Variant, contrasts_of
from effchal.model_source import ModelSource, load_engine

log = logging.getLogger("effchal.evaluate")
told_of_failures: set[str] = set()  # functions that grade: one failure of each is told at once


@dataclass
class EvaluationTask:
    """A model, the decodings to compare and the records so far."""

    cfg: Config
    source: ModelSource
    variants: list[Variant]
    records: Records

    @cached_property
    def engine(self) -> Engine:
        """Loads the model at first use: a resumed evaluation may have nothing left to answer."""
        engine = load_engine(self.source, self.cfg.evaluate.memory_gib)
        for variant in self.variants:
            engine.model.check(variant.contrast)
        return engine

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.engine.model)

    @property
    def is_loaded(self) -> bool:
        return "engine" in self.__dict__

    @property
    def wants_length_control(self) -> bool:
        contrasts = any(variant.contrasts_layers for variant in self.variants)
        return self.cfg.sweep.controls and contrasts


def answers(
    task: EvaluationTask, scenario: Scenario, encoded: list[EncodedInstance]
) -> Iterator[list[Record]]:
    """Records of all instances, a batch at a time: those that generate, then those with choices.

    Batches do not depend on what is recorded already, so a resumed evaluation gives the same
    bits.

    Args:
        encoded: `encode` of the scenario.

    Raises:
        ScenarioError: the data are not those of the records.
        FloatingPointError: the model's logits are not finite.
    """
    for has_choices in (False, True):
        alike = [each for each in encoded if bool(each.choice_ids) == has_choices]
        yield from answers_of_one_kind(task, scenario, alike)


def answers_of_one_kind(
    task: EvaluationTask, scenario: Scenario, encoded: list[EncodedInstance]
) -> Iterator[list[Record]]:
    prefix = shared_prefix([each.prompt_ids for each in encoded])
    engine_has_prefix = False
    rows = task.cfg.evaluate.rows_at_once
    for batch in (encoded[first : first + rows] for first in range(0, len(encoded), rows)):
        known = recorded(task.records, batch)
        if len(known) == len(batch):
            yield known
            continue
        try:
            if batch[0].choice_ids:
                yield score_batch(task, scenario, batch, len(prefix))
                continue
            if prefix and not engine_has_prefix:
                task.engine.hold_prefix(prefix)
                engine_has_prefix = True
            yield generate_batch(task, scenario, batch)
        except FloatingPointError as error:
            ids = ", ".join(each.instance.id for each in batch)
            raise FloatingPointError(f"{scenario.entry}, one of {ids}: {error}") from error


def recorded(records: Records, batch: list[EncodedInstance]) -> list[Record]:
    """The records that the batch has already. Raises ScenarioError if a prompt has changed."""
    found = []
    for each in batch:
        record = records.get(each.entry, each.instance.id)
        if record and record.prompt_sha256 != each.digest:
            raise ScenarioError(
                f"{each.entry}: the prompt of {each.instance.id} is not the one recorded; "
                "bring the data back"
            )
        found += [record] if record else []
    return found


def generate_batch(
    task: EvaluationTask, scenario: Scenario, batch: list[EncodedInstance]
) -> list[Record]:
    """Records of instances that are answered by generated text."""
    prompts = [each.prompt_ids for each in batch]
    params = [
        [params_of(task, scenario, each.instance, variant) for variant in task.variants]
        for each in batch
    ]
    found = task.engine.generate(prompts, params, len(prompts))
    records = []
    for each, completions in zip(batch, found, strict=True):
        decodings: dict[str, Answer] = {}
        for variant, completion in zip(task.variants, completions, strict=True):
            decodings[variant.name] = describe_completion(scenario, each.instance, completion)
        if each.instance.letters and task.wants_length_control:
            baseline = completions[0].text
            decodings[LONGEST] = longest_option(scenario, each.instance, baseline)
        records.append(each.record(decodings))
    return records


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
    drawn = f"{scenario.entry} {instance.id}"
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
    )


def describe_completion(
    scenario: Scenario, instance: Instance, completion: Completion
) -> TextAnswer:
    layers = Counter(str(token.layer) for token in completion.tokens if token.layer is not None)
    return TextAnswer(
        text=completion.text,
        finish_reason=completion.finish_reason,
        logprob=sum(token.logprob for token in completion.tokens),
        base_logprob=sum(token.base_logprob for token in completion.tokens),
        tokens=len(completion.ids),
        layers=dict(layers) or None,
        metrics=score_if_possible(scenario, instance, completion.text),
    )


def score_if_possible(scenario: Scenario, instance: Instance, text: str) -> dict[str, float]:
    """Scores of an answer; none where the user's function fails, so that no answer is lost."""
    try:
        return score_completion(scenario, instance, text)
    except GraderError as error:
        if error.label not in told_of_failures:
            told_of_failures.add(error.label)
            log.warning("%s; the answers go on, and are graded again at the end", error)
        return {}


def score_batch(
    task: EvaluationTask, scenario: Scenario, batch: list[EncodedInstance], prefix_tokens: int
) -> list[Record]:
    """Records of instances that are answered by the most likely of given choices.

    Args:
        prefix_tokens: tokens that the prompts of the whole scenario begin with.
    """
    contrasts = contrasts_of(task.variants)
    records = []
    for each in batch:
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
