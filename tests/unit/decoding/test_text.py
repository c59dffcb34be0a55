import random

import pytest
from support.paths import SMOLLM2, needs_smollm2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from effchal.config import ModelConfig
from effchal.config.choices import Dtype
from effchal.decoding.detokenize import TokenTexts, find_stop
from effchal.model.tokenizer import load_tokenizer

TEXTS = [
    "Hello  world",
    "naïve 漢字 🙂🙃",
    "a\n\n\nb",
    " leading",
    "tab\tend ",
    "e\u0301 and \U0001f468\u200d\U0001f469",
]


@pytest.fixture(scope="module")
def byte_tokenizer():
    return load_tokenizer(ModelConfig(name="builtin:tiny", dtype=Dtype.float32))


@pytest.fixture(scope="module")
def metaspace_tokenizer():
    """As in SentencePiece: a space belongs to the next word, and decoding drops the first one."""
    words = [
        "▁",
        "▁Answer",
        ":",
        "▁B",
        "▁two",
        "▁words",
        "a",
        "b",
        "<0xE6>",
        "<0xBC>",
        "<0xA2>",
        "</s>",
    ]
    backend = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    backend.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


@pytest.mark.parametrize("text", TEXTS)
def test_parts_join_to_the_whole(byte_tokenizer, text):
    texts = TokenTexts(byte_tokenizer)
    parts = [texts.add(token_id) for token_id in byte_tokenizer(text).input_ids]
    assert "".join(parts) == text
    assert texts.rest() == ""


def test_a_character_of_several_tokens_comes_with_its_last_one(byte_tokenizer):
    texts = TokenTexts(byte_tokenizer)
    assert [texts.add(token_id) for token_id in byte_tokenizer("a漢b").input_ids] == [
        "a",
        "",
        "",
        "漢",
        "b",
    ]


def test_a_character_cut_off_at_the_end_is_not_lost(byte_tokenizer):
    ids = byte_tokenizer("ab漢").input_ids[:-1]
    texts = TokenTexts(byte_tokenizer)
    joined = "".join(texts.add(token_id) for token_id in ids)
    assert joined + texts.rest() == byte_tokenizer.decode(ids)


def test_a_prompt_that_ends_inside_a_character_is_not_part_of_the_answer(byte_tokenizer):
    """`tokenizers.decoders.DecodeStream` gives out the prompt's last tokens here."""
    prompt = byte_tokenizer("the prompt 漢").input_ids[:-1]
    texts = TokenTexts(byte_tokenizer, prompt)
    assert "prompt" not in "".join(texts.add(i) for i in byte_tokenizer(" and on").input_ids)


def test_words_keep_their_spaces(metaspace_tokenizer):
    ids = metaspace_tokenizer.get_vocab()
    prompt = [ids["▁Answer"], ids[":"]]
    texts = TokenTexts(metaspace_tokenizer, prompt)
    assert texts.peek(ids["▁B"]) == " B"
    assert [texts.add(ids[word]) for word in ("▁B", "▁two", "▁words")] == [" B", " two", " words"]
    assert [texts.add(ids[f"<0x{byte}>"]) for byte in ("E6", "BC", "A2")] == ["", "", "漢"]
    alone = TokenTexts(metaspace_tokenizer)
    assert [alone.add(ids[word]) for word in ("▁two", "▁words")] == ["two", " words"]


def test_special_tokens_add_nothing(byte_tokenizer):
    texts = TokenTexts(byte_tokenizer)
    assert texts.add(byte_tokenizer.eos_token_id) == ""
    assert texts.add(byte_tokenizer("x").input_ids[0]) == "x"


@needs_smollm2
def test_parts_join_to_the_whole_on_the_real_tokenizer():
    tokenizer = load_tokenizer(ModelConfig(name=str(SMOLLM2)))
    draw = random.Random(0)
    for text in [*TEXTS, *("".join(draw.choices("".join(TEXTS), k=40)) for _ in range(50))]:
        ids = tokenizer(text).input_ids
        texts = TokenTexts(tokenizer)
        assert (
            "".join(texts.add(token_id) for token_id in ids) + texts.rest()
            == tokenizer.decode(ids)
            == text
        )


def test_the_earliest_stop_wins_also_across_parts():
    assert find_stop("one two", ["two", "one"], 0) == 0
    assert find_stop("abc###def", ["###"], 0) == 3
    assert find_stop("abc###", ["###"], 5) == 3  # "##" was searched before, the third "#" came now
    assert find_stop("abc", ["###", "d"], 0) is None
    assert find_stop("abc", [], 0) is None
