"""Fixed prompts that the model in training answers, and then trains on as if it never had."""

import logging
from collections.abc import Callable

import torch

from effchal.config import Config, ConfigError
from effchal.decoding.engine import Engine
from effchal.decoding.sampling import SamplingParams
from effchal.model.load import evaluation_mode, model_shape
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import PromptEncoder, Turn
from effchal.training.build import TrainingSetup
from effchal.training.layers import as_loaded

AT_ONCE = 8  # prompts that decode together
log = logging.getLogger("effchal.train")


def check_samples(cfg: Config) -> None:
    """Check train.samples before any weight is read.

    Raises:
        ConfigError: a prompt and its answer are longer than the model's positions.
    """
    if not cfg.train.samples:
        return
    encoder = PromptEncoder(load_tokenizer(cfg.model), cfg.prompt)
    most, answer = model_shape(cfg.model).max_positions, cfg.train.sample_tokens
    for number, prompt in enumerate(cfg.train.samples):
        tokens = len(_ids(encoder, prompt))
        if tokens + answer > most:
            raise ConfigError(
                f"train.samples[{number}] has {tokens} tokens, which with "
                f"train.sample_tokens={answer} are more than this model's {most} positions; "
                "shorten it, or lower train.sample_tokens"
            )


class Sampler:
    """Answers train.samples greedily with the present weights."""

    def __init__(self, cfg: Config, setup: TrainingSetup) -> None:
        self.prompts, self._model, self._tokenizer = cfg.train.samples, setup.model, setup.tokenizer
        self._device = setup.device
        encoder = PromptEncoder(setup.tokenizer, cfg.prompt)
        self._ids, self._ends = [_ids(encoder, text) for text in self.prompts], encoder.end_ids
        self._params = SamplingParams(max_new_tokens=cfg.train.sample_tokens, seed=0)

    def answer(self, must_stop: Callable[[], bool]) -> list[dict[str, str]]:
        """Prompts with their completions; none if the model cannot answer now.

        Args:
            must_stop: asked before each token; True leaves the answers as they are.
        """
        devices = [self._device] if self._device.type == "cuda" else []
        try:
            with (
                torch.random.fork_rng(devices),
                evaluation_mode(self._model),
                as_loaded(self._model),
            ):
                answers = self._answers(must_stop)
        except (FloatingPointError, torch.OutOfMemoryError) as error:
            log.warning("no samples: %s", str(error).partition("\n")[0])
            return []
        pairs = zip(self.prompts, answers, strict=False)
        return [{"prompt": prompt, "completion": answer} for prompt, answer in pairs]

    def _answers(self, must_stop: Callable[[], bool]) -> list[str]:
        engine = Engine(self._model, self._tokenizer)
        engine.ends |= self._ends
        answers: list[str] = []
        for first in range(0, len(self._ids), AT_ONCE):
            if answers and must_stop():
                break
            here = self._ids[first : first + AT_ONCE]
            started = [engine.start(ids, [self._params])[0] for ids in here]
            while engine.rows and not must_stop():
                engine.step()
            for each in started:
                if not each.done:
                    each.end("length")
                answers.append(each.completion().text)
            engine.clear()
        return answers


def _ids(encoder: PromptEncoder, prompt: str) -> list[int]:
    return encoder.prompt_ids([Turn("user", prompt)]) or [encoder.eos_id]
