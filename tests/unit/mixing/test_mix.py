"""How sources become a mix: the split, the weights and their realised shares."""

import json
import random

import numpy as np
import pytest

from effchal.config import DataMixConfig, DataSourceConfig
from effchal.config.choices import WeighBy
from effchal.mixing.mix import Mix
from effchal.mixing.prepare import prepare_data
from effchal.mixing.select import select
from effchal.mixing.sources import DataError

ROW = {"instruction": "add", "input": "1 1", "output": "2"}


def source(path, rows, **options):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSourceConfig(path=str(path), **options)


def ids(selection, validation):
    return [
        each.source.id_of(i)
        for each in selection.sources
        for i in np.flatnonzero(each.kept & (each.is_validation == validation))
    ]


def test_validation_and_training_share_no_prompt_and_keep_every_row(tmp_path):
    rows = [ROW | {"instruction": f"task {i % 40}", "output": str(i)} for i in range(100)]
    sources = {
        "one": source(tmp_path / "one.jsonl", rows),
        "two": source(tmp_path / "two.jsonl", [row | {"output": "?"} for row in rows[:10]]),
    }
    selection = select(DataMixConfig(sources=sources, validation_fraction=0.1))
    train, validation = ids(selection, False), ids(selection, True)
    prompts = [int(name.partition(":")[2]) % 40 for name in train]
    validated = {int(name.partition(":")[2]) % 40 for name in validation}
    assert not validated & set(prompts)
    assert len(train) + len(validation) == 110
    assert 4 <= len(validated) <= 5  # a tenth of 40, and one of the second source's own ten
    again = select(DataMixConfig(sources=sources, validation_fraction=0.1))
    assert ids(again, True) == validation
    other = select(DataMixConfig(sources=sources, validation_fraction=0.1, seed=1))
    assert ids(other, True) != validation


def test_an_empty_mix_is_refused():
    with pytest.raises(DataError, match=r"data_mix\.sources is empty"):
        select(DataMixConfig())


def test_max_rows_are_the_same_rows_in_any_order_of_the_file(tmp_path):
    rows = [ROW | {"instruction": f"task {i}"} for i in range(50)]
    shuffled = random.Random(0).sample(range(50), 50)
    kept = []
    for name, order in (("a", range(50)), ("b", shuffled)):
        path = tmp_path / f"{name}.jsonl"
        sources = {"s": source(path, [rows[i] for i in order], max_rows=7)}
        (each,) = select(DataMixConfig(sources=sources)).sources
        kept.append({order[i] for i in each.indices})
    assert kept[0] == kept[1]
    assert len(kept[0]) == 7


def mix(weights, by, sizes=(4000, 15000, 900), seed=0):
    lengths = np.random.default_rng(3).lognormal(5, 1, sum(sizes)).astype(int) + 1
    owners = np.repeat(np.arange(len(sizes)), sizes)
    named = {f"s{i}": weight for i, weight in enumerate(weights)}
    return Mix(owners, lengths, named, by, seed)


def test_weights_are_copies_and_a_drawn_part():
    found = mix((2.0, 0.5, 1.0), WeighBy.copies)
    order = found.epoch_order(0)
    counts = np.bincount(order, minlength=19900)
    assert (counts[:4000] == 2).all()
    assert (counts[19000:] == 1).all()
    assert counts[4000:19000].sum() == 7500
    assert counts[4000:19000].max() == 1
    assert order == found.epoch_order(0) != found.epoch_order(1)


@pytest.mark.parametrize("by", WeighBy)
def test_no_example_is_drawn_twice_for_a_part_of_a_copy(by):
    found = mix((0.8, 0.7, 0.9), by)
    counts = np.bincount(found.epoch_order(0), minlength=19900)
    for number, copies in enumerate(found.copies()):
        drawn = counts[found.source == number]
        assert int(copies) <= drawn.min() <= drawn.max() <= int(copies) + 1


@pytest.mark.parametrize("by", [WeighBy.rows, WeighBy.tokens])
@pytest.mark.parametrize("weights", [(1, 1, 1), (0.2, 0.7, 0.1), (6, 3, 1)])
def test_realised_shares_are_the_declared_ones(by, weights):
    found = mix(weights, by)
    for epoch in range(3):
        order = np.array(found.epoch_order(epoch))
        counted = found.tokens[order] if by is WeighBy.tokens else np.ones(len(order))
        shares = np.bincount(found.source[order], counted) / counted.sum()
        assert np.abs(shares - np.array(weights) / sum(weights)).max() < 0.005
        assert len(order) == len(found.epoch_order(0))  # or steps would have no number


def test_the_digest_knows_which_answers_are_learned(tiny_cfg, tmp_path):
    def digest(weight):
        turns = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "weight": weight},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "d"},
        ]
        tiny_cfg.data_mix.sources = {"s": source(tmp_path / "a.jsonl", [{"messages": turns}])}
        tiny_cfg.data_mix.validation_fraction = 0.0
        return prepare_data(tiny_cfg, tmp_path).sha256

    assert digest(0) != digest(1) == digest(1)


def test_the_report_names_every_source(tiny_cfg, tmp_path):
    rows = [ROW | {"instruction": str(i)} for i in range(5)]
    path = tmp_path / "a.jsonl"
    tiny_cfg.data_mix.sources = {"s": source(path, rows, license="MIT", revision="of-the-hub")}
    tiny_cfg.data_mix.validation_fraction = 0.2
    prepare_data(tiny_cfg, tmp_path)
    (found,) = json.loads((tmp_path / "mix.json").read_text())["sources"]
    expected = {
        "source": "s",
        "path": str(path),
        "revision": None,
        "license": "MIT",
        "weight": 1.0,
        "rows": 5,
        "filtered": 0,
        "dropped": {},
        "examples": 5,
        "validation": 1,
        "multi_turn": 0,
        "share_rows": 1.0,
    }
    assert expected.items() <= found.items()
    assert "| s " in (tmp_path / "mix.md").read_text()


def test_no_source_goes_to_validation_as_a_whole(tmp_path):
    same = [ROW | {"output": str(i)} for i in range(20)]
    sources = {
        "same": source(tmp_path / "a.jsonl", same),
        "one": source(tmp_path / "b.jsonl", [ROW | {"instruction": "other"}]),
    }
    for each in select(DataMixConfig(sources=sources, validation_fraction=0.5)).sources:
        assert not each.is_validation.any()
