"""What becomes of an example of more than max_seq_len tokens; nothing of it is lost in silence."""

import pytest

from effchal.config import ModelConfig, PromptConfig
from effchal.config.choices import Dtype, LossOn, TooLong
from effchal.mixing.encode import NO_ANSWER, EncodeWork
from effchal.prompts.encoder import Turn

TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)  # one token a byte


def encoded(too_long, limit, *turns, loss_on=LossOn.answers):
    work = EncodeWork(TINY, PromptConfig(user="{content}:"), limit, loss_on, too_long)
    batch = work.encode([turns], work.prompts)
    texts = [work.prompts.tokenizer.decode(ids.tolist()) for ids, _ in batch.examples()]
    return texts, batch


def asks(question, answer):
    return Turn("user", question), Turn("assistant", answer)


TALK = (Turn("system", "Be kind."), *asks("one", "1"), *asks("two", "2"), *asks("three", "3"))


def test_split_repeats_the_system_turn_and_keeps_every_answer_once():
    texts, batch = encoded(TooLong.split, 25, *TALK)
    assert [text.count("Be kind.") for text in texts] == [1] * len(texts)
    assert len(texts) > 1
    assert [text for text in ("1</s>", "2</s>", "3</s>") if "".join(texts).count(text) == 1] == [
        "1</s>",
        "2</s>",
        "3</s>",
    ]
    assert max(batch.lengths) <= 25
    assert (batch.truncated.tolist(), batch.dropped) == ([False] * len(texts), [])
    assert batch.rows.tolist() == [0] * len(texts)


def test_split_leaves_what_fits_as_it_is():
    assert encoded(TooLong.split, 500, *TALK)[0] == encoded(TooLong.cut, 500, *TALK)[0]


def test_split_cuts_a_document_into_pieces_that_hold_all_of_it():
    texts, batch = encoded(TooLong.split, 16, Turn("text", "0123456789" * 5))
    assert "".join(texts) == "0123456789" * 5 + "</s>"
    assert batch.lengths.tolist() == [16, 16, 16, 3]
    assert batch.learned.all()


def test_cut_prompt_leaves_out_the_beginning_of_the_longest_question():
    question = "the first words go, these last words stay"
    texts, batch = encoded(TooLong.cut_prompt, 40, *asks("hi", "a"), *asks(question, "b"))
    (text,) = texts
    assert text.startswith("hi:a</s>")
    assert text.endswith(" words stay:b</s>")
    assert "first" not in text
    assert (batch.lengths[0] <= 40, batch.truncated.tolist()) == (True, [True])


@pytest.mark.parametrize("too_long", [TooLong.cut, TooLong.cut_prompt, TooLong.split])
def test_an_answer_that_is_too_long_alone_is_cut_and_keeps_its_question(too_long):
    texts, batch = encoded(too_long, 20, *asks("why", "because " * 10))
    assert texts == ["why:because because because "[:20]]
    assert batch.truncated.tolist() == [True]


def test_drop_and_an_answer_out_of_reach_are_told():
    assert encoded(TooLong.drop, 10, *asks("a question", "b"))[1].dropped == [(0, "too_long")]
    assert encoded(TooLong.cut, 10, *asks("a question", "b"))[1].dropped == [(0, NO_ANSWER)]


def test_what_is_learned_is_a_choice():
    talk = (*asks("one", "1"), *asks("two", "2"))
    for loss_on, learned in (
        (LossOn.answers, "1</s>2</s>"),
        (LossOn.last, "2</s>"),
        (LossOn.all, "one:1</s>\n\ntwo:2</s>"),
    ):
        texts, batch = encoded(TooLong.cut, 100, *talk, loss_on=loss_on)
        flags = batch.learned
        ids = batch.ids[flags].tolist()
        prompts = EncodeWork(TINY, PromptConfig(), 100).prompts
        assert prompts.tokenizer.decode(ids) == learned
        assert len(texts) == 1
