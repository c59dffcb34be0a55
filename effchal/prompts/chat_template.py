"""A tokenizer's own chat template: what it renders, and where in that the model's answers lie."""

import copy
import datetime
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken

from effchal.config import ConfigError

Ints = npt.NDArray[Any]
Message = dict[str, str]  # role and content
# The day of all prompts, whenever they are served: the one that Llama 3's templates fall back to.
DAY = datetime.datetime(2024, 7, 26)
LEAVE_OUT = "leave such turns out"
DATE_CALL = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


class TemplateError(ConfigError):
    """A template of no use, or turns that it cannot render.

    Attributes:
        reason: the message without its remedies, which are none of a client's.
        index: which conversation of a batch it is.
    """

    index = 0

    def __init__(self, reason: str, remedy: str = "take another template") -> None:
        super().__init__(f"{reason}; {remedy}, or give prompt=chatml or prompt=instruction")
        self.reason, self._remedy = reason, remedy

    def __reduce__(self) -> Any:
        """For a process that raises it in another one."""
        return type(self), (self.reason, self._remedy), {"index": self.index}


class Answer(NamedTuple):
    """Where an answer begins and ends, in special tokens of the text."""

    header: str  # text from the last special token before the answer up to the answer
    before: int  # special tokens before it; 0: the header begins with the text
    through: int  # special tokens up to its end-of-turn token, which counts


class Rendered(NamedTuple):
    text: str  # for ChatTemplate.backend
    special_tokens: int
    answers: list[Answer]

    def texts(self) -> list[str]:
        """What `ids` needs the ids of."""
        return [self.text, *(answer.header for answer in self.answers)]


class ChatTemplate:
    """Renders conversations so that only the template can spell special tokens.

    In a rendered text a mark stands for each special token of the template, while a special
    token in the content of a turn stands as it was. `backend` knows the marks alone.

    Attributes:
        source: the template in Jinja, with a fixed day in place of today.
        backend: the tokenizer with marks in place of special tokens.
        end_id: the token that ends an answer.
        last_answer_only: an earlier answer is rendered otherwise than the model has to give it,
            e.g. without its thoughts. It is not learned from.
        takes_tools: the template knows a tool's turn; else that is told as a user's.
    """

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a fast one of transformers.

        Raises:
            TemplateError: no chat template, or one that cannot be cut into turns.
        """
        self._tokenizer, self.source = tokenizer, _source(tokenizer)
        special = {i: t for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        nonce = secrets.token_hex(8)  # no user can type a mark
        marks = {i: f"<{nonce}{i:07}>" for i in special}
        self._swaps = {token.content: marks[i] for i, token in special.items()}
        self._swaps |= {mark: content for content, mark in self._swaps.items()}
        longest_first = sorted(self._swaps, key=len, reverse=True)
        self._either = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._mark = re.compile(f"<{nonce}[0-9]{{7}}>")
        self.backend = plain_backend(tokenizer)
        self.backend.add_tokens([_like(special[i], mark) for i, mark in marks.items()])
        self._real: dict[int, int] = {self.backend.token_to_id(marks[i]): i for i in marks}
        if not self._real.keys().isdisjoint(tokenizer.get_vocab().values()):
            raise TemplateError("its chat template cannot be used: this tokenizer's ids have gaps")
        self.takes_tools = True
        self._probe()

    def _probe(self) -> None:
        """Find out by made-up turns what the template can do."""
        question = {"role": "user", "content": "Zwölf  gray\n\n  ducks: 1+1?"}
        answer = {"role": "assistant", "content": "Two  {{ 2 }}\n\n  'it' is."}
        prompt, whole = self.prompt([question]), self._text([question, answer])
        at = whole.find(answer["content"], len(prompt))
        if not whole.startswith(prompt) or at < 0:
            raise TemplateError(
                "the tokenizer's chat template cannot be cut into turns: an answer changes what "
                "stands before it, or is itself changed"
            )
        end = self._mark.search(whole, at + len(answer["content"]))
        if end is None:
            raise TemplateError(
                "the tokenizer's chat template has no special token behind an answer, so that "
                "none would end"
            )
        self._end = end[0]
        self.end_id = self._real[self.backend.token_to_id(self._end)]
        self.takes_tools = self._tells_tool(question, answer)
        self.last_answer_only = False
        with suppress(TemplateError):  # one that takes no second question says so where it comes
            found = self.render([question, answer, question, answer], [1, 3])
            self.last_answer_only = len(found.answers) < 2

    def _tells_tool(self, question: Message, answer: Message) -> bool:
        """Whether the template knows a tool's turn; else that is told as a user's."""
        word = "geese"  # unchanged even where a template puts it into JSON
        try:
            return word in self._text([question, answer, {"role": "tool", "content": word}, answer])
        except TemplateError:
            return False

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text up to where the model answers.

        Raises:
            TemplateError: the template refuses these turns, or leaves one out.
        """
        text = self._text(messages, is_prompt=True)
        self._check_contents(messages, text)
        return text

    def render(self, messages: Sequence[Message], learned: Sequence[int]) -> Rendered:
        """A whole conversation, and the answers in it to learn from.

        Args:
            learned: which messages are such answers.

        Raises:
            TemplateError: the template refuses these turns, or leaves one out, or an answer
                changes what stands before it.
        """
        whole = self._text(messages)
        self._check_contents(messages, whole)
        answers = []
        for position in learned:
            prompt = self._text(messages[:position], is_prompt=True)
            is_last = position + 1 == len(messages)
            alone = whole if is_last else self._text(messages[: position + 1])
            at = alone.find(self._end, len(prompt))
            if not alone.startswith(prompt) or at < 0:
                raise TemplateError(
                    f"the tokenizer's chat template cannot cut {_roles(messages)} into turns: "
                    f"the answer in turn {position + 1} changes what stands before it",
                    LEAVE_OUT,
                )
            answered = alone[: at + len(self._end)]
            if whole.startswith(answered):
                *_, header = 0, *(mark.start() for mark in self._mark.finditer(prompt))
                counts = [len(self._mark.findall(text)) for text in (prompt, answered)]
                answers.append(Answer(prompt[header:], *counts))
        return Rendered(whole, len(self._mark.findall(whole)), answers)

    def ids(self, rendered: Rendered, ids_of: Mapping[str, Ints]) -> tuple[Ints, Ints]:
        """Ids of the model's tokenizer, and which of them are answers to learn from.

        A token that holds the end of a header and the beginning of an answer is the answer's.

        Args:
            ids_of: what `backend` makes of the text and of the headers.
        """
        ids = ids_of[rendered.text]
        marks = self._places(ids)
        if len(marks) != rendered.special_tokens:
            raise TemplateError(
                "the tokenizer does not find all special tokens of its chat template again"
            )
        is_answer = np.zeros(len(ids), bool)
        for answer in rendered.answers:
            start = marks[answer.before - 1] if answer.before else 0
            for token in ids_of[answer.header]:
                if ids[start] != token:
                    break
                start += 1
            end = marks[answer.through - 1] + 1
            is_answer[start:end] = True
        return self.real_ids(ids), is_answer

    def real_ids(self, ids: Ints) -> Ints:
        """The model's own ids for those of `backend`."""
        places = self._places(ids)
        ids = ids.copy()
        ids[places] = [self._real[token] for token in ids[places].tolist()]
        return ids

    def _places(self, ids: Ints) -> Ints:
        """Where the special tokens stand."""
        return np.flatnonzero(np.isin(ids, list(self._real)))

    def _text(self, messages: Sequence[Message], is_prompt: bool = False) -> str:
        told = [m | {"role": self._role(m), "content": self._swap(m["content"])} for m in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                told, chat_template=self.source, tokenize=False, add_generation_prompt=is_prompt
            )
        except Exception as error:  # a program of somebody else
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise TemplateError(
                f"the tokenizer's chat template refuses {_roles(messages)}: {reason}", LEAVE_OUT
            ) from error
        return self._swap(text)

    def _swap(self, text: str) -> str:
        """Special tokens as marks, and marks as special tokens."""
        return self._either.sub(lambda found: self._swaps[found[0]], text)

    def _role(self, message: Message) -> str:
        tells_user = message["role"] == "tool" and not self.takes_tools
        return "user" if tells_user else message["role"]

    def _check_contents(self, messages: Sequence[Message], text: str) -> None:
        """Raise TemplateError where a template leaves a turn out, as some do with system turns."""
        for message in messages:
            is_given = message["role"] in ("system", "user")
            if is_given and message["content"].strip() not in text:
                raise TemplateError(
                    f"the tokenizer's chat template leaves out the {message['role']} turn of "
                    f"{_roles(messages)}, or changes it",
                    LEAVE_OUT,
                )


def plain_backend(tokenizer: Any) -> Any:
    """A copy that takes special tokens for characters: other threads use the tokenizer itself."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def _source(tokenizer: Any) -> str:
    """The template, with a fixed day in place of today.

    Raises:
        TemplateError: there is none, or it needs the time otherwise.
    """
    if not tokenizer.chat_template:
        raise TemplateError(
            "prompt.template=tokenizer: the model's tokenizer has no chat template",
            "give prompt=auto",
        )
    try:
        found = tokenizer.get_chat_template()
    except ValueError as error:
        raise TemplateError(
            "the tokenizer has several chat templates and none is called default",
            "give one that name",
        ) from error
    source = DATE_CALL.sub(lambda call: json.dumps(DAY.strftime(call[2])), found)
    if "strftime_now(" in source:
        raise TemplateError("the tokenizer's chat template depends on the day")
    return source


def _like(token: Any, content: str) -> AddedToken:
    names = ("lstrip", "rstrip", "single_word", "normalized")
    return AddedToken(content, special=False, **{name: getattr(token, name) for name in names})


def _roles(messages: Sequence[Message]) -> str:
    roles = [message["role"] for message in messages]
    return f"[{', '.join(roles[:4])}{', ...' if len(roles) > 4 else ''}]"
