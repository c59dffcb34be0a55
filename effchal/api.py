"""effchal from Python: the same code as the commands, as functions.

import effchal

run = effchal.train(effchal.load_config(["experiment=quickstart"]))
model = effchal.load(run.folder)
print(model.generate(["What is a budget?"], method="dola", premature_layers="high")[0].text)
print(model.score("2 + 2 =", [" 4", " 5"]))
print(effchal.evaluate(run.folder, ["scenario.entries=[gsm]"]).results["entries"])
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from effchal.cli.arguments import quote
from effchal.cli.compose import compose_config, overlay
from effchal.cli.evaluate_arguments import question_words
from effchal.config import Config, ConfigError
from effchal.config.decoding import change_decoding
from effchal.decoding.engine import Engine
from effchal.decoding.layers import contrast_of
from effchal.decoding.prefix_cache import common_beginning
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.sequence import Completion
from effchal.model_source import check_model_source, inference_config, load_engine
from effchal.prompts.encoder import PromptEncoder, Turn

Source = str | Path | Config


@dataclass(frozen=True)
class TrainedRun:
    """A training run after its end."""

    folder: Path
    record: dict[str, Any]  # run.json: steps, tokens, losses, seconds, versions

    @property
    def status(self) -> str:
        """finished, stopped_by_budget, interrupted (by a signal) or failed."""
        return self.record["status"]

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation after its end."""

    folder: Path
    results: dict[str, Any]  # results.json: scores with intervals, by entry and decoding
    table: str  # as the command prints it


def load_config(overrides: Sequence[str] = ()) -> Config:
    """The config that a command would get, e.g. `load_config(["model=tiny", "lora.r=8"])`.

    Raises:
        ConfigError: an unknown key, a wrong type or a bad value; the message names the key.
    """
    return compose_config(list(overrides))


def train(config: Config, run_dir: str | Path | None = None) -> TrainedRun:
    """Train one adapter, as `effchal train` does. Call it from the main thread.

    With `config.resume_from` it goes on with that run, under the run's own config.

    Args:
        config: what `load_config` returned.
        run_dir: folder of a new run; None makes one in outputs/train.

    Raises:
        ConfigError: the config cannot be run, or the folder holds a run already.
    """
    from effchal.planning.training_run import nothing_to_do, open_run, run
    from effchal.runs import nothing_left_if_refused, run_lock
    from effchal.training.signals import StopSignals

    folder = _folder("train", config, run_dir)
    with nothing_left_if_refused(folder, keep=run_dir is not None and folder.is_dir()):
        config, folder = open_run(deepcopy(config), [], folder)
        if nothing_to_do(config, folder) is None:
            with run_lock(folder), StopSignals() as signals:
                run(config, folder, signals)
    return TrainedRun(folder, json.loads((folder / "run.json").read_text()))


def load(source: Source, overrides: Sequence[str] = ()) -> "Model":
    """Load a model for generating and scoring, as `effchal serve` does.

    Args:
        source: folder of a bundle or of a run; or a base model: hub id, local folder or
            builtin:tiny; or a Config without a bundle.
        overrides: typed keys, e.g. ["decoding=dola_high"]. A base model also takes model.*
            and prompt.* keys, e.g. ["model.revision=<hash>", "prompt=chatml"].

    Raises:
        ConfigError: a damaged bundle, a missing base model, or a key that is frozen.
    """
    config = _inference_config(source, overrides, set())
    return Model(config, load_engine(check_model_source(config)))


def evaluate(
    source: Source, overrides: Sequence[str] = (), run_dir: str | Path | None = None
) -> Evaluation:
    """Score a model on scenarios, as `effchal evaluate` does.

    Args:
        source: as in `load`.
        overrides: decoding.*, scenario.*, sweep.* and evaluate.* keys, e.g.
            ["scenario.entries=[truthful_qa_mc]", "decoding=dola_high"], or questions of
            your own: ["data=questions.jsonl"].
        run_dir: folder of the evaluation; one that was begun there goes on, as long as
            model and config are the same. None makes one in outputs/evaluate.

    Raises:
        ConfigError: whatever is wrong with bundle, layers, entries or data.
        FloatingPointError: the model's logits are not finite.
        GraderError: the function of evaluate.grader failed; the answers are kept in `run_dir`.
    """
    from effchal.evaluation import run as evaluation

    typed = question_words(list(overrides))
    config = _inference_config(source, typed, {"scenario", "sweep", "evaluate", "name"})
    folder = _folder("evaluate", config, run_dir)
    table = evaluation.run(config, folder)
    return Evaluation(folder, json.loads((folder / "results.json").read_text()), table)


class Model:
    """A loaded model. Not thread-safe: one caller at a time.

    Attributes:
        config: decoding.* and prompt.* are the defaults of `generate` and `score`.
    """

    def __init__(self, config: Config, engine: Engine) -> None:
        self.config, self._engine = config, engine
        self._encoder = PromptEncoder(engine.tokenizer, config.prompt)
        self._scorer = Scorer(engine.model)

    def generate(
        self,
        prompts: Sequence[str],
        stops: Sequence[str] = (),
        seed: int | None = None,
        rows_at_once: int = 8,
        **decoding: Any,
    ) -> list[Completion]:
        """Answer each prompt once, in the model's prompt template.

        Args:
            prompts: texts of one user turn each.
            stops: an answer ends before the first of these texts.
            seed: of sampling; None draws a new one.
            rows_at_once: prompts that decode together.
            decoding: keys of decoding.*, e.g. method="dola", premature_layers="high",
                max_new_tokens=64 (tokens), temperature=0.7.

        Returns:
            One completion for each prompt: `.text`, `.finish_reason` ("stop" or "length"),
            `.ids`, `.tokens` with log-probabilities in nats, and `.end`, the same of the
            end token, where the model ended the answer itself.

        Raises:
            ConfigError: an unknown decoding key, a bad value, or a layer that the model lacks.
            ValueError: prompt and answer are longer than the model's positions.
            FloatingPointError: the model's logits are not finite.
        """
        chosen = change_decoding(self.config.decoding, decoding)
        params = SamplingParams(
            max_new_tokens=chosen.max_new_tokens,
            temperature=chosen.temperature if chosen.method.value == "sample" else 0.0,
            top_p=chosen.top_p,
            stops=tuple(stop for stop in stops if stop),
            first_line=chosen.end_at_first_line and not any(stops),
            seed=seed,
            contrast=contrast_of(chosen, self._engine.model.num_layers, self._engine.model.tied),
            repetition_penalty=chosen.repetition_penalty,
        )
        texts = [prompts] if isinstance(prompts, str) else prompts
        ids = [self._encoder.prompt_ids([Turn("user", text)]) for text in texts]
        ids = [each or [self._encoder.eos_id] for each in ids]
        for each in ids:
            self._check_length(len(each) + params.max_new_tokens)
        answers = self._engine.generate(ids, [[params]] * len(ids), rows_at_once)
        return [completion for (completion,) in answers]

    def score(self, prompt: str, continuations: Sequence[str], **decoding: Any) -> list[float]:
        """Log-probabilities of texts after a prompt, which stands as it is: no template.

        Each text is tokenized together with the prompt. Where a token would straddle the
        border, the prompt ends before it, as in evaluations.

        Args:
            prompt: the text before; may be empty.
            continuations: texts that are not empty.
            decoding: as in `generate`.

        Returns:
            One sum over the continuation's tokens for each, in nats.

        Raises:
            ConfigError, FloatingPointError: as in `generate`.
            ValueError: no or an empty continuation, or too long a text for the model.
        """
        if not continuations or not all(continuations):
            raise ValueError("score needs at least one continuation, and none may be empty")
        chosen = change_decoding(self.config.decoding, decoding)
        contrast = contrast_of(chosen, self._engine.model.num_layers, self._engine.model.tied)
        alone = self._encoder.text_ids(prompt)
        whole = [self._encoder.text_ids(prompt + text) for text in continuations]
        # At least one id of each is scored.
        border = min(common_beginning([alone, *whole]), min(map(len, whole)) - 1)
        start = self._encoder.bos_ids + whole[0][:border]
        self._check_length(len(self._encoder.bos_ids) + max(map(len, whole)) + 1)
        rest = [ids[border:] for ids in whole]
        (scores,) = self._scorer.score(start or [self._encoder.eos_id], rest, [contrast])
        return scores.logprobs

    def _check_length(self, tokens: int) -> None:
        most = self._engine.max_positions
        if tokens > most:
            raise ValueError(f"{tokens} tokens, prompt and answer; this model holds {most}")


def _inference_config(source: Source, overrides: Sequence[str], free: set[str]) -> Config:
    """The config of a bundle or a base model with the overrides on top."""
    typed = list(overrides)
    if isinstance(source, Config):
        if typed or source.bundle is not None:
            raise ConfigError("give the bundle's folder and overrides, or a Config of a base model")
        return inference_config(source, [], free)
    for folder in (Path(source), Path(source) / "bundle"):
        if (folder / "manifest.json").is_file():
            typed.append(f"bundle={quote(str(folder))}")
            return inference_config(compose_config(typed), typed, free)
    plain = compose_config([f"model.name={quote(str(source))}", "prompt=plain", "lora=none"])
    allowed = {"model", "prompt", "decoding"} | free
    return overlay(plain, compose_config([*typed, "lora=none"]), typed, allowed, str(source))


def _folder(command: str, config: Config, run_dir: str | Path | None) -> Path:
    """The folder of a run: the one that is given, or a new one as the command makes it."""
    from effchal.runs import new_folder

    given = config.resume_from if run_dir is None else run_dir
    if given is not None:
        return Path(given)
    return new_folder(Path("outputs", command, f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{config.name}"))
