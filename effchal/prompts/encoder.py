"""Conversation -> token ids, by the same functions in training and in serving."""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from effchal.config import PromptConfig
from effchal.config.choices import Template
from effchal.prompts.chat_template import (
    ChatTemplate,
    Message,
    Rendered,
    TemplateError,
    plain_backend,
)
from effchal.prompts.priority import give_way
from effchal.prompts.word_cache import WordCache, cuts_at_spaces

LONG_TEXT = 4096  # characters; less is encoded in a few milliseconds
VERY_LONG_TEXT = 100_000  # characters; more may take seconds
NICE = 10  # of the thread that encodes such texts: a decoding step goes first
Ints = npt.NDArray[Any]


@dataclass(frozen=True)
class Turn:
    role: str  # system, user, assistant, tool, or text: a whole document without a template
    content: str
    learn: bool = True  # False leaves an answer out of the loss


def with_tool_calls(text: str, functions: Sequence[Mapping[str, Any]]) -> str:
    """The content of an assistant's turn that calls tools: its text, then a line for each call.

    Args:
        functions: name and arguments of each call. Other keys are left out. Arguments are spelled
            as an object, whether they come as one or as its JSON.
    """
    calls = []
    for each in functions:
        call = {key: each[key] for key in ("name", "arguments") if key in each}
        with suppress(KeyError, TypeError, ValueError):  # no arguments, no text, no JSON
            found = json.loads(call["arguments"])
            call["arguments"] = found if isinstance(found, dict) else call["arguments"]
        calls.append(json.dumps(call))
    return "\n".join([text] * bool(text) + calls)


class PromptEncoder:
    """Turns conversations into ids with one tokenizer and one template.

    Only a template can spell special tokens. Inside a turn the same characters are ordinary
    text: no user can end a turn by typing `<|im_end|>`.

    Attributes:
        templates: config.prompt, with its choice made where it was `auto`.
        end_ids: tokens that end an answer.

    Args:
        tokenizer: a fast transformers tokenizer with an end-of-sequence token.
        templates: config.prompt.

    Raises:
        TemplateError: the tokenizer's own template is wanted, and is missing or of no use.
    """

    def __init__(self, tokenizer: Any, templates: PromptConfig) -> None:
        self.tokenizer, self.templates = tokenizer, resolved(templates, tokenizer)
        own = self.templates.template is Template.own
        self.chat = None if own else ChatTemplate(tokenizer)
        self.eos_id: int = tokenizer.eos_token_id
        self.end_ids = {self.eos_id} if self.chat is None else {self.eos_id, self.chat.end_id}
        # What the tokenizer puts before every text: [1] for Mistral, [] for SmolLM2.
        self.bos_ids: list[int] = [i for i in tokenizer("").input_ids if i != self.eos_id]
        self._special_ids: dict[str, int] = {
            token.content: id
            for id, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._special_split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._plain = self.chat.backend if self.chat else plain_backend(tokenizer)
        self._very_long_texts = ThreadPoolExecutor(1, "very-long-texts", give_way, (NICE,))

    @cached_property
    def _words(self) -> WordCache | None:
        """For training alone: it reads the whole vocabulary, which a server need not wait for."""
        return WordCache(self._plain) if cuts_at_spaces(self._plain) else None

    @property
    def takes_tools(self) -> bool:
        """Whether a tool's turn has a form of its own; else it is told as a user's."""
        return self.chat is not None and self.chat.takes_tools

    def text_ids(self, text: str) -> list[int]:
        """Ids of ordinary text: no beginning-of-sequence token, special tokens as characters."""
        return self._encode(self._plain, [text])[0]

    def raw_ids(self, text: str) -> list[int]:
        """Ids of a whole prompt as it is spelled: special tokens count, none is added."""
        return self._encode(self.tokenizer.backend_tokenizer, [text])[0]

    def _encode(self, backend: Any, texts: list[str]) -> list[list[int]]:
        longest = max(map(len, texts), default=0)
        if len(texts) == 1 and longest < LONG_TEXT:
            return [backend.encode(texts[0], add_special_tokens=False).ids]
        # `encode` stops all other threads of the process, encode_batch does not.
        encode = partial(backend.encode_batch_fast, add_special_tokens=False)
        if longest > VERY_LONG_TEXT:  # one at a time, for each has a processor core to itself
            return [each.ids for each in self._very_long_texts.submit(encode, texts).result()]
        return [each.ids for each in encode(texts)]

    def chat_template(self) -> str:
        """The template in Jinja, like a tokenizer's, for clients that build prompts."""
        if self.chat is not None:
            return self.chat.source
        eos = self.tokenizer.eos_token
        role = "{% elif message['role'] == 'assistant' %}"
        return (
            f"{_jinja(self.tokenizer.decode(self.bos_ids))}"
            "{% for message in messages %}"
            "{% if not loop.first and loop.previtem['role'] == 'assistant' %}"
            f"{_jinja(self.templates.after_answer)}"
            "{% endif %}"
            "{% if message['role'] == 'system' %}"
            f"{_jinja(self.templates.system)}{role}{_jinja(self.templates.assistant + eos)}"
            f"{{% else %}}{_jinja(self.templates.user)}{{% endif %}}"
            "{% endfor %}"
        )

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Ids up to where the model answers.

        Raises:
            ValueError: no turn, or the last one is an answer.
            TemplateError: the tokenizer's own template refuses these turns.
        """
        if not turns or turns[-1].role == "assistant":
            raise ValueError(
                "a prompt needs at least one turn, and the last one must not be an answer"
            )
        if self.chat is None:
            return self.conversation_ids(turns)[0]
        text = self.chat.prompt(_messages(turns))
        ids = self._encode(self.chat.backend, [text])[0]
        return self.chat.real_ids(np.asarray(ids, np.uint32)).tolist()

    def conversation_ids(self, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
        """Ids of a whole conversation, and which of them the model has to produce.

        Returns:
            ids: (T,), beginning-of-sequence token first where the tokenizer has one.
            is_answer: (T,), True on every answer and the token that ends it.

        Raises:
            TemplateError: the tokenizer's own template refuses these turns.
        """
        ids, is_answer = self.conversations([turns])[0]
        return ids.tolist(), is_answer.tolist()

    def conversations(self, many: Sequence[Sequence[Turn]]) -> list[tuple[Ints, Ints]]:
        """conversation_ids of each as arrays, uint32 and bool, by few calls of the tokenizer."""
        both: list[tuple[Rendered | None, list[_Part]]] = []
        for index, turns in enumerate(many):
            whole = self._rendered(index, turns)
            both.append((whole, [] if whole else self._parts(turns)))
        texts: dict[str, None] = {}  # what templates repeat is encoded once
        for whole, parts in both:
            texts |= dict.fromkeys(
                whole.texts() if whole else (p.text for p in parts if p.id is None)
            )
        some = list(texts)
        by_words = self._words if len(many) > 1 else None
        found = by_words.encode(some) if by_words else self._arrays(some)
        ids_of = dict(zip(some, found, strict=True))
        return [
            self.chat.ids(whole, ids_of) if self.chat and whole else self._joined(parts, ids_of)
            for whole, parts in both
        ]

    def _arrays(self, texts: list[str]) -> list[Ints]:
        return [np.asarray(ids, np.uint32) for ids in self._encode(self._plain, texts)]

    def _joined(self, parts: list["_Part"], ids_of: dict[str, Ints]) -> tuple[Ints, Ints]:
        ids = [np.asarray(self.bos_ids, np.uint32)]
        ids += [ids_of[p.text] if p.id is None else np.array([p.id], np.uint32) for p in parts]
        flags = [False, *(part.is_answer for part in parts)]
        return np.concatenate(ids), np.repeat(flags, [len(each) for each in ids])

    def _rendered(self, index: int, turns: Sequence[Turn]) -> Rendered | None:
        """A conversation in the tokenizer's own template; None without one, or for a document."""
        if self.chat is None or not turns or turns[0].role == "text":
            return None
        learned = [i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.learn]
        try:
            return self.chat.render(_messages(turns), learned)
        except TemplateError as error:
            error.index = index
            raise

    def _parts(self, turns: Sequence[Turn]) -> list["_Part"]:
        """A conversation in parts that are encoded one by one."""
        parts = []
        before = ""
        for turn in turns:
            learned = turn.learn and turn.role in ("assistant", "text")
            if turn.role == "text":
                parts.append(_Part(turn.content, learned))
            elif turn.role == "assistant":
                parts += self._fill(self.templates.assistant, turn.content, learned)
            else:
                # A tool's answer is told to the model as a user's turn.
                kind = self.templates.system if turn.role == "system" else self.templates.user
                parts += self._fill(before + kind, turn.content, learned)
            if turn.role in ("assistant", "text"):
                parts.append(_Part("", learned, self.eos_id))
            before = self.templates.after_answer if turn.role == "assistant" else ""
        return parts

    def _fill(self, template: str, content: str, is_answer: bool) -> list["_Part"]:
        texts = self._special_split.split(template) if self._special_ids else [template]
        return [
            _Part(text, is_answer, self._special_ids[text])
            if text in self._special_ids
            else _Part(text.replace("{content}", content), is_answer)
            for text in texts
            if text
        ]


class _Part(NamedTuple):
    text: str
    is_answer: bool
    id: int | None = None  # of a special token, in place of the text's


def _messages(turns: Sequence[Turn]) -> list[Message]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def resolved(templates: PromptConfig, tokenizer: Any) -> PromptConfig:
    """config.prompt with `auto` as what it means for this tokenizer."""
    if templates.template is not Template.auto:
        return templates
    if tokenizer.chat_template:
        return PromptConfig(template=Template.tokenizer)
    return replace(templates, template=Template.own)


def _jinja(template: str) -> str:
    """A template with `{content}` as Jinja, everything else literal."""
    literal = [
        f"{{{{ {json.dumps(part, ensure_ascii=False)} }}}}" if part else ""
        for part in template.split("{content}")
    ]
    return "{{ message['content'] }}".join(literal)
