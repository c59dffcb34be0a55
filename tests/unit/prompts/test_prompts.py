import pytest
from support.paths import SMOLLM2, needs_smollm2

from effchal.cli.compose import compose_config
from effchal.config import ModelConfig, PromptConfig
from effchal.config.choices import Dtype
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import PromptEncoder, Turn

TALK = [
    Turn("user", "Hi"),
    Turn("assistant", "Hello"),
    Turn("user", "And now?"),
    Turn("assistant", "Bye"),
]


@pytest.fixture
def tiny_encoder():
    tokenizer = load_tokenizer(ModelConfig(name="builtin:tiny", dtype=Dtype.float32))
    return PromptEncoder(tokenizer, PromptConfig(user="Q: {content}\nA:", after_answer="\n"))


def test_answers_and_their_end_are_marked_and_nothing_else(tiny_encoder):
    ids, is_answer = tiny_encoder.conversation_ids(TALK)
    assert tiny_encoder.tokenizer.decode(ids) == "Q: Hi\nA:Hello</s>\nQ: And now?\nA:Bye</s>"
    answers = [token_id for token_id, answer in zip(ids, is_answer, strict=True) if answer]
    assert tiny_encoder.tokenizer.decode(answers) == "Hello</s>Bye</s>"


def test_a_served_prompt_is_the_beginning_of_the_trained_conversation(tiny_encoder):
    ids, is_answer = tiny_encoder.conversation_ids(TALK[:2])
    assert tiny_encoder.prompt_ids(TALK[:1]) == ids[: is_answer.index(True)]
    ids, _ = tiny_encoder.conversation_ids(TALK)
    second = tiny_encoder.prompt_ids(TALK[:3])
    assert second == ids[: len(second)]


def test_a_special_token_typed_by_a_user_is_text(tiny_encoder):
    ids = tiny_encoder.prompt_ids([Turn("user", "a</s>b")])
    assert tiny_encoder.eos_id not in ids
    assert tiny_encoder.tokenizer.decode(ids) == "Q: a</s>b\nA:"


def test_a_prompt_must_end_with_a_question(tiny_encoder):
    with pytest.raises(ValueError, match="must not be an answer"):
        tiny_encoder.prompt_ids(TALK[:2])
    with pytest.raises(ValueError, match="at least one turn"):
        tiny_encoder.prompt_ids([])


@pytest.mark.parametrize("text", ["", "  two  spaces\n\n", "naïve 漢字 🙂", "</s><pad>"])
def test_text_survives_encoding(tiny_encoder, text):
    ids = tiny_encoder.text_ids(text)
    assert tiny_encoder.tokenizer.decode(ids, skip_special_tokens=True) == text


@needs_smollm2
def test_chatml_equals_the_models_own_chat_template_where_a_system_turn_is_given():
    tokenizer = load_tokenizer(ModelConfig(name=str(SMOLLM2)))
    encoder = PromptEncoder(tokenizer, compose_config(["prompt=chatml"]).prompt)
    turns = [*TALK, Turn("user", "\n  odd  spaces\n")]

    def theirs(turns):
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )

    kind = [Turn("system", "Be kind."), *turns]
    assert encoder.prompt_ids(kind) == theirs(kind)
    # As docs/data.md says, theirs adds a system turn where none is given.
    own = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert encoder.prompt_ids([Turn("system", own), *turns]) == theirs(turns)
    assert encoder.prompt_ids(turns) != theirs(turns)


@needs_smollm2
def test_smollm2_ids_are_the_known_ones():
    encoder = PromptEncoder(load_tokenizer(ModelConfig(name=str(SMOLLM2))), PromptConfig())
    assert encoder.bos_ids == []
    assert encoder.text_ids("Hello world") == [19556, 905]
    assert 0 not in encoder.text_ids("<|endoftext|>")


def test_a_batch_of_conversations_gives_what_each_gives_alone(tiny_encoder):
    system = [
        Turn("system", "Be </s> brief."),
        Turn("tool", ""),
        Turn("assistant", "", learn=False),
    ]
    many = [TALK, TALK[:2], [Turn("text", "a document")], [], TALK[:1], system + TALK]
    alone = [tiny_encoder.conversation_ids(turns) for turns in many]
    found = [(ids.tolist(), flags.tolist()) for ids, flags in tiny_encoder.conversations(many)]
    assert found == alone
    assert tiny_encoder.conversations([]) == []
