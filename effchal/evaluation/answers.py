"""Answers of one model to the instances of a scenario, under several decodings at once."""

import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from effchal.config import Config
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.sequence import Completion
from effchal.evaluation.results import (
    LONGEST,
    Answer,
    ChoiceAnswer,
    Record,
    Records,
    TextAnswer,
    prompt_digest,
)
from effchal.evaluation.scenarios import (
    Instance,
    Reference,
    Scenario,
    ScenarioError,
    score_choices,
    score_completion,
)
from effchal.evaluation.variants import Variant, contrasts_of
from effchal.model_source import ModelSource, load_engine
from effchal.prompts import PromptEncoder, Turn

MIN_SHARED_PREFIX = 32  # tokens; a shorter one is not worth a cache of its own


class TokenizerWindow:
    """The tokenizer as scenarios need it: see scenarios.TextWindow."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._tokenizer, self.encode = encoder.tokenizer, encoder.text_ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


@dataclass(frozen=True)
class EncodedInstance:
    """An instance with its token ids."""

    entry: str
    instance: Instance
    prompt_ids: list[int]
    choice_ids: list[list[int]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return prompt_digest(self.instance.prompt, self.instance.choices)

    def record(self, decodings: dict[str, Answer]) -> Record:
        instance, references = self.instance, list(self.instance.references)
        if instance.choices:  # as they were scored, a leading space included
            marked = zip(instance.choices, instance.correct_choices, strict=True)
            references = [Reference(text, correct) for text, correct in marked]
        head = (self.entry, instance.id, instance.split, self.digest)
        return Record(
            *head,
            decodings,
            prompt=instance.prompt,
            perturbation=instance.perturbation or None,
            references=references,
        )


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
    """Records of all instances in their order, a batch at a time.

    Batches do not depend on what is recorded already, so a resumed evaluation gives the same
    bits.

    Args:
        encoded: `encode` of the scenario.

    Raises:
        ScenarioError: the data are not those of the records.
        FloatingPointError: the model's logits are not finite.
    """
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
                yield score_batch(task, batch, len(prefix))
                continue
            if prefix and not engine_has_prefix:
                task.engine.hold_prefix(prefix)
                engine_has_prefix = True
            yield generate_batch(task, scenario, batch)
        except FloatingPointError as error:
            ids = ", ".join(each.instance.key for each in batch)
            raise FloatingPointError(f"{scenario.entry}, one of {ids}: {error}") from error


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


def shared_prefix(prompts: list[list[int]]) -> list[int]:
    """Ids that all prompts begin with, if they are many enough to keep their cache."""
    count = common_prefix(prompts)
    return prompts[0][:count] if count >= MIN_SHARED_PREFIX and len(prompts) > 1 else []


def common_prefix(rows: list[list[int]]) -> int:
    """How many ids all rows begin with; at least one id of each row stays out."""
    low, high = min(rows), max(rows)
    pairs = enumerate(zip(low, high, strict=False))
    count = next((i for i, (a, b) in pairs if a != b), min(len(low), len(high)))
    return min(count, min(map(len, rows)) - 1)


def encode(scenario: Scenario, encoder: PromptEncoder, max_positions: int) -> list[EncodedInstance]:
    """Ids of all instances.

    A prompt to answer goes through the template, as the server does it for HELM's requests.
    A prompt with choices is tokenized as one text with each of them, without a template.
    Where a token would straddle the border, the prompt ends before it.

    Raises:
        ScenarioError: an instance that the model has no positions for.
    """
    encoded = []
    for instance in scenario.instances:
        choices: list[list[int]] = []
        if not instance.choices:
            prompt = encoder.prompt_ids([Turn("user", instance.prompt)])
        else:
            whole = [encoder.text_ids(instance.prompt + choice) for choice in instance.choices]
            alone = [*encoder.text_ids(instance.prompt), -1]
            border = min(common_prefix([ids, alone]) for ids in whole)
            prompt = encoder.bos_ids + whole[0][:border]
            choices = [ids[border:] for ids in whole]
        each = EncodedInstance(scenario.entry, instance, prompt or [encoder.eos_id], choices)
        longest = max([scenario.settings.max_new_tokens, *map(len, choices)])
        tokens = len(each.prompt_ids) + longest
        if tokens > max_positions:
            raise ScenarioError(
                f"{scenario.entry}: {instance.key} needs {tokens} tokens, prompt and answer; "
                f"this model holds {max_positions}"
            )
        encoded.append(each)
    return encoded


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
    settings, temperature = scenario.settings, variant.temperature
    return SamplingParams(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature if temperature is None else temperature,
        top_p=variant.top_p,
        stops=settings.stops,
        first_line=task.cfg.decoding.end_at_first_line and not settings.stops,
        seed=zlib.crc32(f"{scenario.entry} {instance.key}".encode()),
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
        metrics=score_completion(scenario, instance, completion.text),
    )


def score_batch(
    task: EvaluationTask, batch: list[EncodedInstance], prefix_tokens: int
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
        for name, found in zip(contrasts.values(), scores, strict=True):
            layers = {str(layer): count for layer, count in found.layers.items()}
            decodings[name] = choice_answer(each.instance, found.logprobs, layers)
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
    return ChoiceAnswer(logprobs, score_choices(instance, logprobs), layers or None)
