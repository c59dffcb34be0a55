"""Examples as the model sees them."""

import json
import re

import pytest
import torch  # noqa: F401  # or the rows would be encoded in other processes
from support.examples import encode_example
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from effchal.config import Config, ConfigError, DataMixConfig, DataSourceConfig, ModelConfig
from effchal.config.choices import Dtype
from effchal.mixing.example import Example
from effchal.mixing.packing import pack_for
from effchal.mixing.prepare import prepare_data
from effchal.mixing.show import COLOURED, PLAIN, lines, spelled, visible
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import PromptEncoder, Turn

TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32, max_seq_len=256)
TALK = (
    Turn("user", "Hi  there </s>"),
    Turn("assistant", "Not learned.", learn=False),
    Turn("user", "And now?"),
    Turn("assistant", "Yes.\n\tö"),
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY)


def encoded(tokenizer, prompt, turns=TALK, length=256):
    return encode_example(Example("talk:0", turns), PromptEncoder(tokenizer, prompt), length)


def test_learned_text_special_tokens_and_white_space_are_marked(tokenizer):
    prompt = Config().prompt
    text = spelled(encoded(tokenizer, prompt), tokenizer, PLAIN)
    assert text == (
        "Hi··there </s>Not learned.«</s>»↵\n↵\nAnd now?⟦Yes.↵\n→ö«</s>»⟧"  # the first </s> is text
    )
    coloured = spelled(encoded(tokenizer, prompt), tokenizer, COLOURED)
    assert coloured.endswith("And now?\x1b[32mYes.↵\n→ö\x1b[7m</s>\x1b[27m\x1b[39m")
    unmarked = re.sub(r"\x1b\[\d+m", "", coloured)
    assert unmarked == re.sub("[⟦⟧«»]", "", text)


def test_a_cut_answer_has_no_end_token(tokenizer):
    example = encoded(tokenizer, Config().prompt, TALK[2:], 11)
    assert spelled(example, tokenizer, PLAIN) == "And now?⟦Yes⟧"


def test_no_space_is_lost_where_a_decoder_strips_the_first_one():
    words = ["<s>", "</s>", "▁", "▁ask", "▁me", "▁yes", "▁indeed", ":"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "▁"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    prompt = Config().prompt
    prompt.assistant = " {content}"
    example = encoded(tokenizer, prompt, (Turn("user", "ask me"), Turn("assistant", "yes indeed")))
    assert spelled(example, tokenizer, PLAIN) == "ask me⟦·yes indeed«</s>»⟧"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one two", "one two"),
        (" a  b ", "·a··b·"),
        ("a \n b\t", "a·↵\n·b→"),
        ("\x1b[31mred\r", "\\x1b[31mred\\r"),
        ("a\xa0b\u200b", "a\\xa0b\\u200b"),
        ("naïve 日本 🙂", "naïve 日本 🙂"),
    ],
)
def test_what_one_would_not_see_is_visible(text, shown):
    assert visible(text) == shown


@pytest.fixture
def cfg(tmp_path):
    sources = {}
    for name, count in (("one", 20), ("two", 10)):
        rows = [{"prompt": f"{name} {i}?", "completion": f"{i} " * (i + 3)} for i in range(count)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources[name] = DataSourceConfig(path=str(path))
    cfg = Config(model=TINY, data_mix=DataMixConfig(sources=sources, validation_fraction=0.1))
    cfg.train.examples_per_step = 8
    return cfg


def shown(cfg, tokenizer, folder):
    data = prepare_data(cfg, folder)
    return data, list(lines(cfg, data, tokenizer, PLAIN))


def test_rows_have_the_borders_that_training_packs(cfg, tokenizer, tmp_path):
    cfg.show.count = 8
    data, text = shown(cfg, tokenizer, tmp_path)
    rows = pack_for(cfg, data.order.examples_of_step(0))
    assert len(rows) > 1
    titles = [
        f"══ step 1, row {number} of {len(rows)}: {row.tokens} of 256 tokens"
        for number, row in enumerate(rows, start=1)
    ]
    borders = [
        f"── {name}: {length}"
        for row in rows
        for name, length in zip(row.example_ids, row.lengths, strict=True)
    ]
    assert [line for line in text if line.startswith("══")] == titles
    found = [line.partition(" tokens, ")[0] for line in text if line.startswith("──")]
    assert found == borders


def test_other_examples_of_a_row_are_one_line_each(cfg, tokenizer, tmp_path):
    cfg.show.count = 1
    data, text = shown(cfg, tokenizer, tmp_path)
    first = data.order.examples_of_step(0)[0].id
    learned = [line for line in text if line.endswith(" learned")]
    assert [line.split()[1] for line in learned] == [f"{first}:"]
    assert any(line.endswith(" tokens, not shown") for line in text)


def test_one_source_is_shown_in_the_order_of_training(cfg, tokenizer, tmp_path):
    cfg.show.source, cfg.show.count = "two", 99
    data, text = shown(cfg, tokenizer, tmp_path)
    names = [line.split()[1][:-1] for line in text if line.endswith(" learned")]
    used = {data.order.encoded.id_at(i) for i in range(len(data.order.encoded))}
    assert len(names) == len(set(names)) == 9
    assert set(names) == {name for name in used if name.startswith("two:")}


def test_examples_are_shown_by_id_wherever_they_are(cfg, tokenizer, tmp_path):
    cfg.data_mix.sources["two"].weight = 0.1
    cfg.train.max_steps = 1
    data, _ = shown(cfg, tokenizer, tmp_path)
    validation = data.validation[0].id
    drawn = {example.id for example in data.order.examples_of_step(0)}
    every = [data.order.encoded.id_at(i) for i in range(len(data.order.encoded))]
    unused = next(name for name in every if name not in drawn)
    cfg.show.ids = [validation, unused, min(drawn)]
    _, text = shown(cfg, tokenizer, tmp_path)
    titles = [line for line in text if line.startswith("══")]
    assert titles[0].startswith("══ step 1, row ")
    assert titles[1:] == ["══ in no step of this run", "══ validation"]
    names = [line.split()[1][:-1] for line in text if line.endswith(" learned")]
    assert names == [min(drawn), unused, validation]


def test_an_id_that_the_mix_lacks_is_refused(cfg, tokenizer, tmp_path):
    cfg.show.ids = ["one:0", "one:77", "three:0"]
    with pytest.raises(ConfigError, match="the mix has no one:77, three:0; an id is <source>:<row"):
        shown(cfg, tokenizer, tmp_path)
