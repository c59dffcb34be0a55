"""Where an answer ends, and what is told of the token that ended it."""

import math

import pytest
from support.scripted import scripted

from effchal.decoding.sampling import SamplingParams
from effchal.decoding.sequence import Sequence, TokenScore, cut_tokens


@pytest.mark.parametrize(
    ("said", "stops", "kept", "finish_reason"),
    [
        ("one\n\ntwo", ("\n\n",), "one", "stop"),
        ("one###two", ("###", "\n\n"), "one", "stop"),
        ("ab", ("x",), "ab", "stop"),  # the end-of-sequence token
        ("stop", ("stop",), "", "stop"),
        ("漢字###", ("字#",), "漢", "stop"),
        ("one<pad>two", ("<pad>",), "one", "stop"),
        ("one<pad>two", ("e<pad>t",), "on", "stop"),
        ("one<pad>two###", ("###",), "onetwo", "stop"),
        ("one\n", ("\n</s>",), "one", "stop"),
        ("abcdefghij", ("ij",), "abcdefgh", "length"),  # cut by max_new_tokens first
    ],
)
def test_stops_cut_text_and_tokens_alike(tiny_engine, said, stops, kept, finish_reason):
    limit = 8 if finish_reason == "length" else 50
    params = SamplingParams(max_new_tokens=limit, stops=stops)
    completion = scripted(tiny_engine, said).complete([1, 2, 3], params)
    assert completion.text == kept
    assert completion.finish_reason == finish_reason
    assert "".join(token.text for token in completion.tokens) == kept


def test_a_character_cut_by_the_limit_shows_in_text_and_tokens(tiny_engine):
    completion = scripted(tiny_engine, "a漢").complete([1], SamplingParams(max_new_tokens=3))
    assert completion.text == tiny_engine.tokenizer.decode(
        tiny_engine.tokenizer("a漢").input_ids[:3]
    )
    assert len(completion.tokens) == 3


def test_the_end_token_has_a_log_probability_and_no_text(tiny_engine):
    params = SamplingParams(max_new_tokens=9, alternatives=2, stops=("</s>",))
    completion = scripted(tiny_engine, "ab").complete([1], params)
    assert [token.text for token in completion.tokens] == ["a", "b"]
    assert completion.end.text == ""
    # Logits of 10 for the one token and 0 for the others.
    others = tiny_engine.model.vocabulary - 1
    assert completion.end.logprob == pytest.approx(-math.log(1 + others * math.exp(-10)), rel=1e-4)
    assert max(completion.end.top_logprobs.values()) == completion.end.logprob
    assert len(completion.ids) == 3


def test_an_answer_that_runs_to_its_limit_has_no_end_token(tiny_engine):
    completion = scripted(tiny_engine, "abc").complete([1], SamplingParams(max_new_tokens=3))
    assert (completion.text, completion.finish_reason, completion.end) == ("abc", "length", None)


def test_a_character_cut_off_by_the_end_token_belongs_to_the_token_before(tiny_engine):
    engine = scripted(tiny_engine, "a漢")
    engine.model.script.pop()
    completion = engine.complete([1], SamplingParams(max_new_tokens=9, stops=("</s>",)))
    assert (completion.tokens[-1].text, completion.end.text) == ("\N{REPLACEMENT CHARACTER}", "")


def test_an_end_token_can_be_a_token_like_others(tiny_engine):
    params = SamplingParams(max_new_tokens=5, ignore_eos=True)
    completion = scripted(tiny_engine, "a</s>b").complete([1], params)
    assert (completion.text, completion.finish_reason, completion.end) == ("ab", "length", None)
    assert len(completion.tokens) == len(completion.ids) == 5


def test_an_echo_spells_the_prompts_own_special_tokens(tiny_engine):
    text = "a<pad>b</s>c"
    params = SamplingParams(max_new_tokens=0, echo_from=0, alternatives=1)
    completion = tiny_engine.complete(tiny_engine.tokenizer(text).input_ids, params)
    assert [token.text for token in completion.tokens] == ["a", "<pad>", "b", "</s>", "c"]
    assert [token.is_predicted for token in completion.tokens] == [False, True, True, True, True]


def test_an_echo_of_nothing_has_the_answer_alone(tiny_engine):
    echo = tiny_engine.complete([7], SamplingParams(max_new_tokens=2, echo_from=1))
    assert echo.tokens == tiny_engine.complete([7], SamplingParams(max_new_tokens=2)).tokens


def test_a_stream_holds_back_what_may_be_the_beginning_of_a_stop_with_special_tokens(tiny_engine):
    params = SamplingParams(max_new_tokens=50, stops=("b<pad>c",))
    sequence = Sequence(tiny_engine.tokenizer, [1], params, tiny_engine.model)
    stable = []
    for token_id in tiny_engine.tokenizer("ab<pad>d").input_ids:
        sequence.add(token_id, TokenScore("", -1.0, -1.0))
        stable.append(sequence.stable_tokens())
    assert stable == [1, 1, 1, 4]


def test_cutting_a_token_that_straddles_the_stop():
    tokens = [
        TokenScore("ab", -1.0, -1.0),
        TokenScore("c#", -2.0, -2.0),
        TokenScore("##d", -3.0, -3.0),
    ]
    spelled = [token.text for token in tokens]
    kept = cut_tokens(tokens, spelled, 3)
    assert [(token.text, token.logprob) for token in kept] == [("ab", -1.0), ("c", -2.0)]
    assert cut_tokens(kept, spelled, 0) == []
