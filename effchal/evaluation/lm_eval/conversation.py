"""What lm-eval asks of the model and how it is answered, until all decodings are scored."""

import logging
import time
from typing import Any

from jinja2 import TemplateError

from effchal.config import ConfigError
from effchal.evaluation.lm_eval.answers import Answerer
from effchal.evaluation.lm_eval.process import LmEvalError, LmEvalProcess, Message
from effchal.evaluation.lm_eval.results import Scores
from effchal.tracking.terminal import progress

log = logging.getLogger("effchal.lm_eval")


class Chat:
    """The model's chat template, applied as lm-eval's `hf` does it."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer, self.template = tokenizer, template
        self._told = False

    def prompt(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """The text of a conversation, up to its answer or to the end of an answer begun.

        A template that refuses the system's turn gets the others alone.
        """
        try:
            return self._filled(messages, add_generation_prompt)
        except TemplateError as error:
            others = [message for message in messages if message["role"] != "system"]
            if len(others) == len(messages):
                raise ConfigError(f"the model's chat template refuses a task: {error}") from error
            if not self._told:
                log.warning("the chat template has no system's turn, so it is left out: %s", error)
            self._told = True
            return self._filled(others, add_generation_prompt)

    def _filled(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages,
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text


class Conversation:
    """The answers to one lm-eval process, and the scores that it sends back.

    Attributes:
        kinds: by task, its type of output.
        scores: by decoding and task, questions and metrics.
        groups: by decoding and group, lm-eval's metrics.
        seconds: by kind of request, that this process took to answer.
    """

    def __init__(self, answerer: Answerer, chat: Chat) -> None:
        self.answerer, self._chat = answerer, chat
        self.version = ""
        self.kinds: dict[str, str] = {}
        self.scores: dict[str, Scores] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}

    def hold(self, process: LmEvalProcess) -> None:
        """Answer until lm-eval is done.

        Raises:
            ConfigError: a task that is unknown or cannot be loaded, or that asks for what we have
                no equal of; before the model is loaded.
            LmEvalError: the same later, or lm-eval failed; answers are kept.
        """
        with progress("lm-eval reads its tasks"):
            try:
                ready = process.receive()
            except LmEvalError as error:
                raise ConfigError(str(error)) from error
        self.kinds, self.version = ready["tasks"], ready["version"]
        log.info("lm-eval %s: %s", self.version, ", ".join(self.kinds))
        for message in process.messages(self._reply):
            self.scores[message["decoding"]] = message["tasks"]
            self.groups[message["decoding"]] = message["groups"]

    def _reply(self, message: Message) -> Message:
        if message["ask"] == "chat_template":
            return {"text": self._chat.template}
        if message["ask"] == "chat":
            return {
                "text": self._chat.prompt(message["messages"], message["add_generation_prompt"])
            }
        started, kind = time.monotonic(), message["ask"]
        try:
            return {"answers": self.answerer.answer(kind, message["requests"])}
        except ConfigError as error:
            if self.answerer.answers:
                raise LmEvalError(str(error)) from error
            raise
        finally:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.monotonic() - started
