"""prompt=tokenizer: ids equal apply_chat_template's; what the model has to produce is learned."""

import functools
import pickle

import pytest
from support.chat_tokenizers import SPECIAL, chat_tokenizer
from support.paths import SMOLLM2, needs_smollm2

from effchal.config import ModelConfig, PromptConfig
from effchal.config.choices import Template
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.chat_template import TemplateError
from effchal.prompts.encoder import PromptEncoder, Turn

OWN = PromptConfig(template=Template.tokenizer)
MAKERS = [*SPECIAL, pytest.param("smollm2", marks=needs_smollm2)]
TALKS = {
    "one": ["What is it?", "A test."],
    "several": ["Hi", "Hello.", "  and\n\nnow?\n", "Two\nlines", "Naïve 漢字 🙂", "1 + 1 = 2"],
    "white space": ["\n a", " leading and trailing \n", "\n\n\nb\n", "c\n\n"],
    "code": ["```\n  {{ x }}\n```", "{% if %} <b> &amp; 'q' \"q\"", "?", "\\n"],
}
SIMPLE = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}"
ASKS = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"


@functools.cache
def encoder_of(maker):
    smollm2 = ModelConfig(name=str(SMOLLM2))
    return PromptEncoder(
        load_tokenizer(smollm2) if maker == "smollm2" else chat_tokenizer(maker), OWN
    )


def conversation(texts, system=None):
    turns = [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    return [Turn("system", system)] * (system is not None) + turns


def theirs(tokenizer, turns, **keys):
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    # Llama's template tells the day, which must not change.
    return tokenizer.apply_chat_template(
        messages, return_dict=False, date_string="26 Jul 2024", **keys
    )


def with_template(template, maker="qwen25"):
    """A tokenizer of its own: those of `chat_tokenizer` are shared."""
    tokenizer = chat_tokenizer.__wrapped__(maker)
    tokenizer.chat_template = template
    return tokenizer


def learned(encoder, turns):
    """The texts that are learned, by answer."""
    ids, is_answer = encoder.conversation_ids(turns)
    marked = [token if answer else -1 for token, answer in zip(ids, is_answer, strict=True)]
    parts = "".join(encoder.tokenizer.decode([i]) if i >= 0 else "\0" for i in marked).split("\0")
    return [part for part in parts if part]


@pytest.mark.parametrize("system", [None, "Be kind.\n Be brief."], ids=["", "system"])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("maker", MAKERS)
def test_ids_equal_those_of_apply_chat_template(maker, talk, system):
    encoder, turns = encoder_of(maker), conversation(TALKS[talk], system)
    tokenizer = encoder.tokenizer
    if system and maker in ("gemma2", "mistral"):  # which raises, and leaves it out
        with pytest.raises(TemplateError, match=r"system.*leave such turns out.*prompt=chatml"):
            encoder.conversation_ids(turns)
        return
    ids, is_answer = encoder.conversation_ids(turns)
    assert ids == theirs(tokenizer, turns)
    last = max(i for i, answer in enumerate(is_answer) if answer)
    assert ids[last] == encoder.chat.end_id
    for end in range(len(turns) - len(TALKS[talk]) + 1, len(turns), 2):
        prompt = encoder.prompt_ids(turns[:end])
        assert prompt == theirs(tokenizer, turns[:end], add_generation_prompt=True)
        begins_plainly = not turns[end].content[0].isspace()
        if begins_plainly and not encoder.chat.last_answer_only:
            assert ids[: len(prompt)] == prompt
            assert is_answer[len(prompt) - 1 : len(prompt) + 1] == [False, True]


@pytest.mark.parametrize(
    ("maker", "texts"),
    [
        ("llama3", ["One.<|eot_id|>", "Two.<|eot_id|>"]),
        ("mistral", [" One.</s>", " Two.</s>"]),
        ("qwen25", ["One.<|im_end|>", " Two.\n<|im_end|>"]),
        ("gemma2", ["One.<end_of_turn>", "Two.<end_of_turn>"]),
        ("phi3", [" One.<|end|>", " Two.\n<|end|>"]),
        # An earlier answer lacks the thoughts that the model has to begin with.
        ("qwen3", ["<think>\n\n</think>\n\n Two.\n<|im_end|>"]),
    ],
)
def test_answers_and_their_end_of_turn_are_learned_and_nothing_else(maker, texts):
    encoder = encoder_of(maker)
    turns = conversation(["a", "One.", "b", " Two.\n"])
    assert learned(encoder, turns) == texts
    silent = [*turns[:3], Turn("assistant", " Two.\n", learn=False)]
    assert learned(encoder, silent) == texts[: len(texts) - 1]


def test_a_token_across_the_border_of_an_answer_is_the_answers():
    encoder, turns = encoder_of("qwen25"), conversation(["a", "\nOne."])
    ids, is_answer = encoder.conversation_ids(turns)
    assert ids == theirs(encoder.tokenizer, turns)
    assert encoder.tokenizer.decode(ids[is_answer.index(True)]) == "\n\n"


def test_thoughts_are_learned_where_the_model_has_to_give_them():
    encoder = encoder_of("qwen3")
    turns = conversation(["a", "<think>\nhm\n</think>\n\nOne.", "b", "<think>so</think>Two."])
    assert encoder.conversation_ids(turns)[0] == theirs(encoder.tokenizer, turns)
    assert learned(encoder, turns) == ["<think>\nso\n</think>\n\nTwo.<|im_end|>"]


@pytest.mark.parametrize("maker", MAKERS)
def test_a_special_token_typed_in_a_turn_is_text(maker):
    encoder = encoder_of(maker)
    tokenizer = encoder.tokenizer
    typed = "".join(tokenizer.all_special_tokens) + " x<|im_start|>system\n<|eot_id|>[/INST]</s>"
    ids, _ = encoder.conversation_ids(conversation([f"a{typed}b", f"c{typed}d"]))
    plain, _ = encoder.conversation_ids(conversation(["ab", "cd"]))
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert tokenizer.decode(ids).count(typed) == 2


@pytest.mark.parametrize("maker", ["qwen25", "llama3"])
def test_a_tools_turn_is_the_templates_own_where_it_has_one(maker):
    encoder = encoder_of(maker)
    turns = [*conversation(["a", "call"]), Turn("tool", 'an "answer"'), Turn("assistant", "b")]
    assert encoder.conversation_ids(turns)[0] == theirs(encoder.tokenizer, turns)


@pytest.mark.parametrize("maker", ["gemma2", "phi3", "mistral"])
def test_a_tools_turn_is_told_as_a_users_where_the_template_has_none(maker):
    encoder = encoder_of(maker)
    turns = [*conversation(["a", "call"]), Turn("tool", "an answer"), Turn("assistant", "b")]
    told = [*turns[:2], Turn("user", "an answer"), turns[3]]
    assert encoder.conversation_ids(turns)[0] == theirs(encoder.tokenizer, told)


@pytest.mark.parametrize("maker", ["llama3", "qwen3", "phi3"])
def test_a_batch_gives_what_each_conversation_gives_alone(maker):
    encoder = encoder_of(maker)
    many = [conversation(texts, system) for texts in TALKS.values() for system in (None, "s")]
    many += [[Turn("text", "a document <|im_end|>")], conversation(["x <|end|>", "y"])]
    found = [(ids.tolist(), flags.tolist()) for ids, flags in encoder.conversations(many)]
    assert found == [encoder.conversation_ids(turns) for turns in many]


def test_an_error_in_a_batch_says_which_conversation_it_is():
    encoder = encoder_of("gemma2")
    twice = [Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c")]
    with pytest.raises(TemplateError, match=r"\[user, user, assistant\]: Conversation roles") as e:
        encoder.conversations([conversation(["a", "b"]), twice])
    assert e.value.index == 1
    moved = pickle.loads(pickle.dumps(e.value))  # out of a process that encodes
    assert (str(moved), moved.reason, moved.index) == (str(e.value), e.value.reason, 1)


def test_the_day_in_a_template_is_fixed():
    encoder = encoder_of("llama3")
    assert "strftime_now(" not in encoder.chat_template()
    told = with_template("{{ strftime_now('%Y-%m-%d') + '\n' }}" + SIMPLE + ASKS)
    text = told.decode(PromptEncoder(told, OWN).prompt_ids([Turn("user", "a")]))
    assert text == "2024-07-26\nuser: a<|im_end|>assistant: "


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the model's tokenizer has no chat template; give prompt=auto, or"),
        ("{{ messages|length }}" + SIMPLE + ASKS, "cannot be cut into turns: an answer changes"),
        (SIMPLE.replace("m.content", "m.content|upper") + ASKS, "leaves out the user turn of"),
        (SIMPLE.replace("<|im_end|>", "\n") + ASKS, "no special token behind an answer"),
        ("{% set f = '%d' %}{{ strftime_now(f) }}" + SIMPLE + ASKS, "depends on the day"),
        ("{% if %}", "refuses .user.: Expected an expression"),
        ({"rag": SIMPLE}, "none is called default"),
    ],
    ids=["none", "counts", "shouts", "endless", "day", "broken", "unnamed"],
)
def test_a_template_of_no_use_is_told_at_once_with_a_remedy(template, message):
    with pytest.raises(TemplateError, match=message) as error:
        PromptEncoder(with_template(template), OWN)
    assert "prompt=chatml" in str(error.value)
    assert "\n" not in str(error.value)


def test_auto_is_the_tokenizers_template_where_it_has_one():
    own = PromptConfig(template=Template.auto, user="Q: {content}\nA:")
    assert PromptEncoder(chat_tokenizer("phi3"), own).templates == OWN
    bare = PromptEncoder(with_template(None), own)
    assert bare.templates == PromptConfig(user="Q: {content}\nA:")
    assert bare.tokenizer.decode(bare.prompt_ids([Turn("user", "x")])) == "Q: x\nA:"
