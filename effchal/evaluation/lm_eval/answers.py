"""Answers to lm-eval's requests, under every decoding at once, each kept when it comes."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from effchal.config import Config
from effchal.decoding.score import Scores
from effchal.decoding.sequence import Completion
from effchal.decoding.sequence import Sequence as Answering
from effchal.evaluation.answers import EvaluatedModel, described
from effchal.evaluation.encoding import shared_prefix
from effchal.evaluation.lm_eval.encode import Pair, RequestEncoder, answer_length, params_of
from effchal.evaluation.results import LONGEST
from effchal.evaluation.variants import contrasts_of, variants_of
from effchal.model_source import ModelSource
from effchal.runs import append_json_line, read_json_lines
from effchal.tracking.terminal import Advance, progress

FILE = "answers.jsonl"
GENERATED = "generate_until"
SCORED = ("loglikelihood", "loglikelihood_rolling")
CHOICES = "multiple_choice"  # a task's type; its requests are log-likelihoods

Values = dict[str, Any]  # one answer under one decoding: logprob, and greedy or text
Request = dict[str, Any]  # key, task and args, as inside.py sends it


class Answers(dict[str, dict[str, Values]]):
    """answers.jsonl: what each request was answered with, by key and decoding.

    A folder belongs to one model and one config, so a key stands for one answer.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        lines = read_json_lines(self._path)
        super().__init__({line["key"]: line["answers"] for line in lines if "answers" in line})

    def add(self, key: str, answers: dict[str, Values]) -> None:
        append_json_line(self._path, {"key": key, "answers": answers})
        self[key] = answers


class Answerer(EvaluatedModel):
    """The model with the requests that it has answered."""

    def __init__(self, cfg: Config, source: ModelSource, tokenizer: Any, folder: Path) -> None:
        super().__init__(cfg, source, variants_of(cfg, source.shape))
        self.answers = Answers(folder)
        self.encoder = RequestEncoder(tokenizer, source.shape.max_positions)
        self._contrasts = contrasts_of(self.variants)

    def decodings(self) -> dict[str, list[str]]:
        """The decodings in their order, each with the types of tasks that it is told for.

        Scores of given texts depend on no penalty and no temperature.
        """
        found: dict[str, list[str]] = {each.name: [GENERATED] for each in self.variants}
        for name in self._contrasts.values():
            found[name] = [*found.get(name, []), *SCORED, CHOICES]
        if self.wants_length_control:
            found[LONGEST] = [CHOICES]
        return found

    def answer(self, kind: str, requests: list[Request]) -> dict[str, dict[str, Values]]:
        """Answers to requests of one kind by key and decoding; those known are not asked again.

        Raises:
            ConfigError: a request that this model cannot answer.
            FloatingPointError: the model's logits are not finite; earlier answers are kept.
        """
        ask: dict[str, Callable[[list[Request], Advance], None]] = {
            "loglikelihood": self._score,
            "loglikelihood_rolling": self._score_whole,
            GENERATED: self._generate,
        }
        known = sum(request["key"] in self.answers for request in requests)
        named = "answering" if kind == GENERATED else "scoring"
        with progress(named, len(requests), "requests", done=known) as advance:
            ask[kind](requests, advance)
        return {request["key"]: self.answers[request["key"]] for request in requests}

    # Log-likelihoods

    def _score(self, requests: list[Request], advance: Advance) -> None:
        pairs = self.encoder.pairs([request["args"][:2] for request in requests])
        done = sum(request["key"] in self.answers for request in requests)
        for prompt, prefix, numbers in grouped(requests, pairs):
            todo = [i for i in numbers if requests[i]["key"] not in self.answers]
            if not todo:
                continue
            # All of them, so that a resumed run gives the same bits.
            found = self._scores(prompt, [pairs[i][1] for i in numbers], prefix)
            for place, i in enumerate(numbers):
                if requests[i]["key"] not in self.answers:
                    self.answers.add(requests[i]["key"], self._values(found, place, pairs[i][1]))
                    done += 1
            advance(done)

    def _scores(
        self, prompt: list[int], continuations: list[list[int]], prefix: int = 0
    ) -> dict[str, Scores]:
        """Scores by the name of each contrast."""
        contrasts = list(self._contrasts)
        found = self.scorer.score(prompt, continuations, contrasts, prefix, greedy=True)
        return dict(zip(self._contrasts.values(), found, strict=True))

    def _values(
        self, found: dict[str, Scores], place: int, continuation: list[int]
    ) -> dict[str, Values]:
        """The answers of one continuation by decoding."""
        by_name: dict[str, Values] = {}
        for name, scores in found.items():
            values = {"logprob": scores.logprobs[place], "greedy": scores.greedy[place]}
            layers = {str(layer): count for layer, count in scores.layers.items()}
            by_name[name] = values | ({"layers": layers} if layers else {})
        for variant in self.variants:  # a task of answers may also have texts scored
            by_name.setdefault(variant.name, by_name[self._contrasts[variant.contrast]])
        if self.wants_length_control:  # log V for each token: every model would give less
            length = len(continuation) * math.log(self.engine.model.vocabulary)
            by_name[LONGEST] = {"logprob": length, "greedy": False}
        return by_name

    def _score_whole(self, requests: list[Request], advance: Advance) -> None:
        for number, request in enumerate(requests, start=1):
            if request["key"] in self.answers:
                continue
            totals: dict[str, Values] = {}
            for prompt, continuation in self.encoder.windows(request["args"][0]):
                found = self._values(self._scores(prompt, [continuation]), 0, continuation)
                for name, values in found.items():
                    before = totals.get(name, {"logprob": 0.0})
                    totals[name] = {"logprob": before["logprob"] + values["logprob"]}
            self.answers.add(request["key"], totals)
            advance(number)

    # Generated answers

    def _generate(self, requests: list[Request], advance: Advance) -> None:
        todo = [request for request in requests if request["key"] not in self.answers]
        params = [
            [params_of(r["args"][1], each, r["task"], r["key"]) for each in self.variants]
            for r in todo
        ]
        lengths = [answer_length(request["args"][1]) for request in todo]
        prompts = self.encoder.prompts([request["args"][0] for request in todo], lengths)
        done = len(requests) - len(todo)
        for task in dict.fromkeys(request["task"] for request in todo):
            numbers = [i for i, request in enumerate(todo) if request["task"] == task]
            self.engine.prefix_cache.clear()
            prefix = shared_prefix([prompts[i] for i in numbers])
            if prefix:
                self.engine.hold_prefixes([(prefix, self.adapter)])
            chosen = [(prompts[i], params[i]) for i in numbers]
            for place, completions in self._completions(chosen):
                named = zip(self.variants, completions, strict=True)
                answers = {each.name: described(completion) for each, completion in named}
                self.answers.add(todo[numbers[place]]["key"], answers)
                done += 1
                advance(done)

    def _completions(
        self, asked: Sequence[tuple[list[int], list[Any]]]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Answers as they are complete; a prompt comes in when another one's answers leave."""
        engine, waiting = self.engine, list(enumerate(asked))[::-1]
        running: dict[int, list[Answering]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.cfg.evaluate.rows_at_once:
                    number, (prompt, params) = waiting.pop()
                    running[number] = engine.start(prompt, params)
                if engine.rows:
                    engine.step()
                for number in [n for n, each in running.items() if all(s.done for s in each)]:
                    yield number, [each.completion() for each in running.pop(number)]
        finally:
            engine.clear()


def grouped(
    requests: list[Request], pairs: list[Pair]
) -> Iterator[tuple[list[int], int, list[int]]]:
    """Requests of one task and one prompt together, whose prompt is then read once.

    Returns:
        the prompt, how many of its first tokens the task's other prompts share, and the numbers of
        the requests, each with another key.
    """
    by_task: dict[str, dict[tuple[int, ...], dict[str, int]]] = {}
    for i, (request, (prompt, _)) in enumerate(zip(requests, pairs, strict=True)):
        of_prompt = by_task.setdefault(request["task"], {}).setdefault(tuple(prompt), {})
        of_prompt.setdefault(request["key"], i)
    for of_task in by_task.values():
        prompts = [list(prompt) for prompt in of_task]
        prefix = len(shared_prefix(prompts))
        for prompt, numbers in zip(prompts, of_task.values(), strict=True):
            yield prompt, prefix, list(numbers.values())
