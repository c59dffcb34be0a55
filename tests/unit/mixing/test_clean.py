"""Faults of single rows, and which rows count as the same."""

import numpy as np
import pytest
from support.examples import load_source
from support.paths import SHARED_DATA, needs_shared_data

from effchal.config import CleanConfig, DataSourceConfig
from effchal.config.choices import OnFault
from effchal.mixing.clean import Fault, fault_of, faults_of, loop_of, text_key
from effchal.mixing.example import Example
from effchal.mixing.words import joined_hashes, parts, phrase_hashes, word_hashes, words
from effchal.prompts.encoder import Turn

LONGEST = (" ".join(f"word{i}" for i in range(100)) + " ") * 8


def example(*contents, learn=True):
    roles = ("user", "assistant") * len(contents)
    turns = (Turn(role, text, learn) for role, text in zip(roles, contents, strict=False))
    return Example("s:0", tuple(turns))


@pytest.mark.parametrize(
    "blank", ["", " ", "\n\t", "\u00a0\u3000", "\u200b\ufeff"], ids=lambda text: ascii(text)
)
def test_an_answer_without_text_is_a_fault(blank):
    found = fault_of(example("Say it.", "It.", "Again.", blank), CleanConfig())
    assert found == Fault("empty_answers", "turn 4 is an answer without text")


def test_only_what_is_learned_can_be_a_fault():
    assert fault_of(example("", "It."), CleanConfig()) is None
    assert fault_of(example("Say it.", "", learn=False), CleanConfig()) is None


def test_a_rule_that_is_keep_is_not_looked_for():
    cfg = CleanConfig(loops=OnFault.keep)
    assert fault_of(example("Say it.", "no " * 500), cfg) is None


def test_many_rows_at_once_have_the_faults_that_each_has_alone():
    loops = ["ha " * 50, "!" * 300, "na" * 150, "I am sorry, but I cannot do that.\n" * 8, LONGEST]
    texts = [*loops, "", "All is well.", "0 0 1 " * 100, "ha " * 49]
    rows = [example("Say it.", text) for _ in range(20) for text in texts]
    alone = [fault_of(row, CleanConfig()) for row in rows]
    assert faults_of(rows, CleanConfig()) == alone
    assert [each is not None for each in alone] == ([True] * 6 + [False] * 3) * 20


def test_a_phrase_said_again_and_again_is_a_loop():
    phrase = "I am sorry, but I cannot do that."
    answer = "A right beginning of the answer, with words. " + f"{phrase}\n" * 8
    found = fault_of(example("Do it.", answer), CleanConfig())
    assert found == Fault("loops", "turn 2 says 'i am sorry but i cannot do that' 8 times in a row")


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("ha " * 50, 50),
        ("!" * 300, 300),
        ("\U0001f602" * 75, 75),
        ("na" * 150, 150),
        ("再见" * 25, 25),
        (" ".join(f"word{i}" for i in range(100)) + " end " * 60, 60),
        (LONGEST, 8),
    ],
    ids=["word", "sign", "emoji", "syllable", "chinese", "end", "longest phrase"],
)
def test_loops_of_all_lengths_are_found(text, times):
    assert loop_of(text)[1] == times


@pytest.mark.parametrize(
    "text",
    [
        "I am sorry, but I cannot do that.\n" * 7,
        "ha " * 49,
        "0 0 1 " * 100,
        "-" * 299,
        " " * 1000 + "end",
        " ".join(f"{n} bottles of beer on the wall," for n in range(99, 0, -1)),
        "",
    ],
    ids=["seven times", "49 words", "numbers", "a line", "blanks", "a song", "nothing"],
)
def test_what_is_no_loop(text):
    assert loop_of(text) is None


@needs_shared_data
@pytest.mark.parametrize("name", ["lima", "open_platypus_components"])
def test_real_rows_have_no_fault_and_none_is_there_twice(name):
    path = SHARED_DATA / "train" / f"{name}.jsonl"
    rows = load_source("s", DataSourceConfig(path=str(path)))
    assert faults_of(rows, CleanConfig()) == [None] * len(rows)
    assert len({text_key(row) for row in rows}) == len(rows)


def test_case_spaces_and_unicode_forms_make_no_other_row():
    first = text_key(example("Café or \ufb01sh?", "Both,  please.\n"))
    assert len(first) == 16
    assert text_key(example("cafe\u0301 OR fish?", " both, please.")) == first


@pytest.mark.parametrize(
    "other",
    [
        example("a", "c"),
        example("a b"),
        example("a", "b", learn=False),
        Example("s:0", (Turn("system", "a"), Turn("assistant", "b"))),
        example("a", "b", "c"),
    ],
    ids=["answer", "turns", "weight", "role", "more"],
)
def test_another_turn_makes_another_row(other):
    assert text_key(other) != text_key(example("a", "b"))


def test_words_and_their_hashes_agree():
    text = "Don\u2019t STOP_it, café \u4f60\u597d 3.5\u00a0x"
    assert words(text) == ["don", "t", "stop", "it", "café", "你", "好", "3", "5", "x"]
    alone = [word_hashes(word).item() for word in words(text)]
    assert word_hashes(text).tolist() == alone
    assert len(set(alone)) == len(alone)


def test_hashes_are_the_same_on_every_machine():
    assert word_hashes("one two").tolist() == [2604472653982503367, 17413992121219079519]
    assert phrase_hashes(word_hashes("one two"), 2).tolist() == [1355704160199042147]


def test_joined_texts_have_the_hashes_that_they_have_alone():
    texts = ["One two three.", "", "...", "four \u00e9", "one"]
    hashes, begins = joined_hashes(tuple(texts))
    parts = np.split(hashes, begins[1:-1])
    assert [part.tolist() for part in parts] == [word_hashes(text).tolist() for text in texts]
    assert phrase_hashes(hashes, 2)[1] == phrase_hashes(word_hashes("two three"), 2)[0]
    assert len(phrase_hashes(hashes, 7)) == 0


def test_rows_are_hashed_in_parts_of_bounded_size():
    assert [*parts([1] * 130)] == [slice(0, 64), slice(64, 128), slice(128, 130)]
    assert [*parts([300_000, 100_000, 200_000, 900_000, 1])] == [
        slice(0, 2),
        slice(2, 3),
        slice(3, 4),
        slice(4, 5),
    ]
    assert [*parts([])] == []


def test_a_text_of_millions_of_characters_has_the_same_hashes():
    text = "one two " * 300_000
    assert len(np.unique(word_hashes(text))) == 2
    assert word_hashes(text)[-1] == word_hashes("two")[0]
