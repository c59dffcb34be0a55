"""Conversation -> token ids, by the same functions in training and in serving."""

import copy
import json
import re
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

LONG_TEXT = 4096  # characters; less is encoded in a few milliseconds
VERY_LONG_TEXT = 100_000  # characters; more may take seconds


@dataclass(frozen=True)
class Turn:
    role: str  # system, user, assistant, tool, or text: a whole document without a template
    content: str
    learn: bool = True  # False leaves an answer out of the loss


class Templates(Protocol):
    """The fields of config.PromptConfig. Each of the first three has one `{content}`."""

    system: str
    user: str
    assistant: str
    after_answer: str


class PromptEncoder:
    """Turns conversations into ids with one tokenizer and one set of templates.

    Only a template can spell special tokens. Inside a turn the same characters are ordinary
    text: no user can end a turn by typing `<|im_end|>`.

    Args:
        tokenizer: a fast transformers tokenizer with an end-of-sequence token.
        templates: config.prompt.
    """

    def __init__(self, tokenizer: Any, templates: Templates) -> None:
        self.tokenizer, self.templates = tokenizer, templates
        self.eos_id: int = tokenizer.eos_token_id
        # What the tokenizer puts before every text: [1] for Mistral, [] for SmolLM2.
        self.bos_ids: list[int] = [i for i in tokenizer("").input_ids if i != self.eos_id]
        self._special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        longest_first = sorted(self._special, key=len, reverse=True)
        self._special_split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        # A copy, because this switch is state of the backend and other threads use the tokenizer.
        self._plain = copy.deepcopy(tokenizer.backend_tokenizer)
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        self._plain.no_padding()
        self._encoding_very_long_text = threading.Lock()

    def text_ids(self, text: str) -> list[int]:
        """Ids of ordinary text: no beginning-of-sequence token, special tokens as characters."""
        return self._encode(self._plain, text)

    def raw_ids(self, text: str) -> list[int]:
        """Ids of a whole prompt as it is spelled: special tokens count, none is added."""
        return self._encode(self.tokenizer.backend_tokenizer, text)

    def _encode(self, backend: Any, text: str) -> list[int]:
        if len(text) < LONG_TEXT:
            return backend.encode(text, add_special_tokens=False).ids if text else []
        # `encode` stops all other threads of the process, encode_batch does not. One very long
        # text at a time: each has a processor core to itself.
        very_long = len(text) > VERY_LONG_TEXT
        with self._encoding_very_long_text if very_long else nullcontext():
            return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def chat_template(self) -> str:
        """The templates in Jinja, like a tokenizer's, for clients that build prompts."""
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

    def prompt_ids(self, turns: list[Turn]) -> list[int]:
        """Ids up to where the model answers.

        Raises:
            ValueError: no turn, or the last one is an answer.
        """
        if not turns or turns[-1].role == "assistant":
            raise ValueError(
                "a prompt needs at least one turn, and the last one must not be an answer"
            )
        return self.conversation_ids(turns)[0]

    def conversation_ids(self, turns: list[Turn]) -> tuple[list[int], list[bool]]:
        """Ids of a whole conversation, and which of them the model has to produce.

        Returns:
            ids: (T,), beginning-of-sequence token first where the tokenizer has one.
            is_answer: (T,), True on every answer and the end-of-sequence token after it.
        """
        ids, is_answer = list(self.bos_ids), [False] * len(self.bos_ids)
        for position, turn in enumerate(turns):
            is_target = turn.role in ("assistant", "text") and turn.learn
            if turn.role == "text":
                added = [*self.text_ids(turn.content), self.eos_id]
            elif turn.role == "assistant":
                added = [*self._fill(self.templates.assistant, turn.content), self.eos_id]
            else:
                follows = position > 0 and turns[position - 1].role == "assistant"
                before = self.templates.after_answer if follows else ""
                # A tool's answer is told to the model as a user's turn.
                kind = self.templates.system if turn.role == "system" else self.templates.user
                added = self._fill(before + kind, turn.content)
            ids += added
            is_answer += [is_target] * len(added)
        return ids, is_answer

    def _fill(self, template: str, content: str) -> list[int]:
        ids: list[int] = []
        parts = self._special_split.split(template) if self._special else [template]
        for part in parts:
            if part in self._special:
                ids.append(self.tokenizer.convert_tokens_to_ids(part))
            else:
                ids += self.text_ids(part.replace("{content}", content))
        return ids


def _jinja(template: str) -> str:
    """A template with `{content}` as Jinja, everything else literal."""
    literal = [
        f"{{{{ {json.dumps(part)} }}}}" if part else "" for part in template.split("{content}")
    ]
    return "{{ message['content'] }}".join(literal)
