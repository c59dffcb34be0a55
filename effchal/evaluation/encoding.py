"""Prompts and choices as token ids, as the engine takes them."""

from dataclasses import dataclass, field

from effchal.evaluation.results import Answer, Record, prompt_digest
from effchal.evaluation.scenarios.types import Instance, Scenario, ScenarioError, Settings
from effchal.prompts.chat_template import TemplateError
from effchal.prompts.encoder import PromptEncoder, Turn

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
        asked = self.instance.own.asked if self.instance.own else ()
        return prompt_digest(self.instance.prompt, self.instance.choices, *asked)

    def record(self, decodings: dict[str, Answer]) -> Record:
        instance = self.instance
        head = (self.entry, instance.id, instance.split, self.digest)
        return Record(
            *head,
            decodings,
            prompt=instance.prompt,
            perturbation=instance.perturbation or None,
            references=instance.asked_references,
            grading=instance.own.grading if instance.own else None,
        )


def shared_prefix(prompts: list[list[int]]) -> list[int]:
    """Ids that all prompts begin with, if they are many enough to keep their cache."""
    count = common_prefix(prompts) if len(prompts) > 1 else 0
    return prompts[0][:count] if count >= MIN_SHARED_PREFIX else []


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
        turns = instance.own.turns if instance.own else ()
        if turns or not instance.choices:
            prompt = encode_turns(scenario, instance, encoder, turns)
            whole = [encode_answered(encoder, turns, choice) for choice in instance.choices]
        else:
            texts = [instance.prompt + choice for choice in instance.choices]
            prompt = encoder.bos_ids + encoder.text_ids(instance.prompt)
            whole = [encoder.bos_ids + encoder.text_ids(text) for text in texts]
        if whole:
            border = min(common_prefix([ids, [*prompt, -1]]) for ids in whole)
            prompt, choices = whole[0][:border], [ids[border:] for ids in whole]
        each = EncodedInstance(scenario.entry, instance, prompt or [encoder.eos_id], choices)
        limit = settings_of(scenario, instance).max_new_tokens
        longest = max(map(len, choices)) if choices else limit
        tokens = len(each.prompt_ids) + longest
        if tokens > max_positions:
            raise ScenarioError(
                f"{scenario.entry}: {instance.key} needs {tokens} tokens, prompt and answer; "
                f"this model holds {max_positions}"
            )
        encoded.append(each)
    return encoded


def encode_turns(
    scenario: Scenario, instance: Instance, encoder: PromptEncoder, turns: tuple[Turn, ...]
) -> list[int]:
    """Ids up to where the model answers. Raises ScenarioError for what the template refuses."""
    try:
        return encoder.prompt_ids(turns or [Turn("user", instance.prompt)])
    except TemplateError as error:
        raise ScenarioError(f"{scenario.entry}, {instance.id}: {error}") from error


def encode_answered(encoder: PromptEncoder, turns: tuple[Turn, ...], answer: str) -> list[int]:
    """Ids of a conversation up to the end of its last answer, the token that ends it left out."""
    ids, is_answer = encoder.conversation_ids([*turns, Turn("assistant", answer)])
    end = len(ids) - is_answer[::-1].index(True)
    return ids[: end - 1] if ids[end - 1] in encoder.end_ids else ids[:end]


def settings_of(scenario: Scenario, instance: Instance) -> Settings:
    return instance.own.settings if instance.own else scenario.settings
