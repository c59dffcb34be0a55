"""Ids by the cache of words are those of the whole text."""

import random

import pytest
from support.paths import SMOLLM2, needs_smollm2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from effchal.mixing.locate import BUILTIN_DIR
from effchal.prompts.word_cache import GPT2, PATTERNS, WordCache, cuts_at_spaces

ByteLevel = pre_tokenizers.ByteLevel
PIECES = ["a", "The", "word", "don't", "'s", "I'LL", "12", "3456", "9", "!", "...", "(", "é", "Ä"]
PIECES += [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n", "\u00a0", "\u0085"]
PIECES += [
    "\u2028",
    "\u3000",
    "\x1c",
    "\u200b",
    "\u0308",
    "中文",
    "🙂",
    "🇩🇪",
    "<|x|>",
    "<y>",
    "_",
    "-",
]


def texts():
    draw = random.Random(0)
    some = ["".join(draw.choices(PIECES, k=draw.randint(0, 40))) for _ in range(2000)]
    return [*some, (BUILTIN_DIR / "conversations.jsonl").read_text()]


def trained(cuts, normalizer=None):
    """A small byte-level tokenizer that cuts words so."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = cuts, decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=ByteLevel.alphabet())
    tokenizer.train([str(path) for path in sorted(BUILTIN_DIR.iterdir())], trainer)
    tokenizer.add_special_tokens(["<|x|>"])
    tokenizer.add_tokens(["<y>"])
    tokenizer.encode_special_tokens = True
    return tokenizer


def by_pattern(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    whole = ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, whole])


CUTS = [by_pattern(pattern) for pattern in sorted(PATTERNS)]
CUTS += [
    ByteLevel(add_prefix_space=False),
    pre_tokenizers.Sequence([pre_tokenizers.Digits(True), ByteLevel(add_prefix_space=False)]),
]


@pytest.mark.parametrize("cuts", CUTS, ids=[str(i) for i in range(len(CUTS))])
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()], ids=["plain", "nfc"])
def test_words_have_the_ids_that_they_have_in_the_text(cuts, normalizer):
    tokenizer = trained(cuts, normalizer)
    assert cuts_at_spaces(tokenizer)
    check(tokenizer)


@needs_smollm2
@pytest.mark.smollm2
def test_of_the_real_tokenizer_too():
    tokenizer = Tokenizer.from_file(str(SMOLLM2 / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    assert cuts_at_spaces(tokenizer)
    check(tokenizer)


def check(tokenizer):
    found = [ids.tolist() for ids in WordCache(tokenizer).encode(texts())]
    assert found == [each.ids for each in tokenizer.encode_batch(texts(), add_special_tokens=False)]


@pytest.mark.parametrize(
    "cuts",
    [
        ByteLevel(add_prefix_space=True),
        ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.Metaspace(),
        by_pattern(GPT2 + "|x y"),
        pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), ByteLevel(add_prefix_space=False)]),
    ],
    ids=["prefix", "uncut", "metaspace", "pattern", "whitespace"],
)
def test_what_is_not_certain_is_left_to_the_library(cuts):
    assert not cuts_at_spaces(trained(cuts))


def test_a_token_over_a_border_is_left_to_the_library():
    certain = {"New York": False, "Answer: ": False, " <z>": True, "  ": True}
    for token, is_certain in certain.items():
        tokenizer = trained(ByteLevel(add_prefix_space=False))
        tokenizer.add_tokens([token])
        assert cuts_at_spaces(tokenizer) == is_certain
        if is_certain:
            check(tokenizer)
    uncut = trained(ByteLevel(add_prefix_space=False))
    uncut.pre_tokenizer = None
    assert not cuts_at_spaces(uncut)
