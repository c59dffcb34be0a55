"""The report of a data mix: every row is accounted for, every number is that of the data."""

import json
import sys
from collections import Counter

import pytest
import torch  # noqa: F401  # or the rows would be encoded in other processes

from effchal.config import Config, ConfigError, DataMixConfig, DataSourceConfig, ModelConfig
from effchal.config.choices import Dtype, WeighBy
from effchal.mixing.compare import compare
from effchal.mixing.encode import IGNORE_INDEX
from effchal.mixing.picture import draw
from effchal.mixing.prepare import prepare_data
from effchal.mixing.report_page import aligned_table

ANSWER = "It is so because nothing else would explain what was seen."
LONG = "a question that goes on " * 30


def row(number, **fields):
    return {"prompt": f"Question {number}?", "completion": f"{number}. {ANSWER}"} | fields


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config(sources, **mix):
    return Config(
        model=ModelConfig(name="builtin:tiny", dtype=Dtype.float32, max_seq_len=256),
        data_mix=DataMixConfig(sources=sources, validation_fraction=0.1, **mix),
    )


@pytest.fixture
def faulty(tmp_path):
    """A source of 30 good rows, some filtered, some a rule drops; and one of 20."""
    rows = [row(i, kind="good") for i in range(30)]
    rows += [row(i, kind="bad") for i in range(5)]
    rows += [row(3, kind="good"), row(4, kind="good")]
    rows += [
        row(90, kind="good", prompt=f"{LONG} | <b>x</b>\n?"),
        row(91, kind="good", prompt=LONG),
    ]
    messages = [
        {"messages": [{"role": r, "content": f"{r} {i}"} for r in ("user", "assistant") * 2]}
        for i in range(20)
    ]
    return {
        "one": DataSourceConfig(
            path=write(tmp_path / "one.jsonl", rows),
            where={"kind": ["good"]},
            license="MIT",
            homepage="https://example.org/one",
        ),
        "two": DataSourceConfig(path=write(tmp_path / "two.jsonl", messages), weight=2.5),
    }


def reported(cfg, folder):
    folder.mkdir(exist_ok=True)
    data = prepare_data(cfg, folder)
    return data, json.loads((folder / "mix.json").read_text())


def test_every_row_is_accounted_for(faulty, tmp_path):
    faulty["two"].max_rows = 15
    _, mix = reported(config(faulty), tmp_path / "out")
    one, two = mix["sources"]
    for source in (one, two):
        dropped = sum(each["count"] for each in source["dropped"].values())
        assert source["rows"] == source["filtered"] + dropped + source["kept"]
    assert (one["rows"], one["filtered"], one["kept"]) == (39, 5, 30)
    counts = {rule: each["count"] for rule, each in one["dropped"].items()}
    assert counts == {"duplicates": 2, "no_answer_left": 2}
    assert two["dropped"] == {"max_rows": {"count": 5, "examples": []}}
    assert (one["multi_turn"], two["multi_turn"]) == (0, 15)
    assert one["license"] == "MIT"
    assert one["format"].startswith("prompt_completion")
    shown = one["dropped"]["no_answer_left"]["examples"]
    assert [each["id"] for each in shown] == ["one:37", "one:38"]
    assert shown[0]["text"].startswith("a question that goes on a question")
    assert "max_seq_len" in shown[0]["detail"]
    assert one["dropped"]["duplicates"]["examples"][0]["detail"] == "the same as one:3"


def test_evaluations_that_were_looked_for_are_told(faulty, tmp_path):
    own = write(tmp_path / "own.jsonl", [{"question": f"Question {i} of mine?"} for i in range(3)])
    cfg = config(faulty)
    cfg.data_mix.decontaminate.files = [own]
    _, mix = reported(cfg, tmp_path / "run")
    assert mix["checked"] == {own: 3}
    assert f"| {own} " in (tmp_path / "run/mix.md").read_text()


def test_tokens_shares_and_lengths_are_those_of_the_first_epoch(faulty, tmp_path):
    cfg = config(faulty)
    data, mix = reported(cfg, tmp_path / "out")
    epoch, drawn = mix["epoch"], Counter()
    tokens, learned = Counter(), 0
    steps = range(-(-data.order.of_epoch // cfg.train.examples_per_step))
    examples = [each for step in steps for each in data.order.examples_of_step(step)]
    for example in examples[: data.order.of_epoch]:
        name = example.id.partition(":")[0]
        drawn[name] += 1
        tokens[name] += len(example.ids)
        learned += int((example.targets != IGNORE_INDEX).sum())
    assert (epoch["examples"], epoch["tokens"]) == (drawn.total(), tokens.total())
    assert epoch["target_tokens"] == learned
    assert sum(count for _, count in epoch["lengths"]) == epoch["examples"]
    assert [top for top, _ in epoch["lengths"]] == list(range(16, 257, 16))
    for source in mix["sources"]:
        name = source["source"]
        assert source["share_rows"] == pytest.approx(drawn[name] / drawn.total())
        assert source["share_tokens"] == pytest.approx(tokens[name] / tokens.total())
        assert source["declared_share"] == pytest.approx(source["share_rows"], abs=0.005)
    assert mix["steps"] == data.order.steps
    assert mix["epochs"] == cfg.train.epochs
    assert 0.8 < epoch["filled"] <= 1


@pytest.mark.parametrize("by", [WeighBy.rows, WeighBy.tokens])
def test_the_declared_share_is_what_the_weights_say(by, faulty, tmp_path):
    faulty["two"].weight = 3
    _, mix = reported(config(faulty, by=by), tmp_path / "out")
    one, two = mix["sources"]
    assert (one["declared_share"], two["declared_share"]) == pytest.approx((0.25, 0.75))
    assert two[f"share_{by.value}"] == pytest.approx(0.75, abs=0.03)  # of 80 examples


def test_the_digest_is_of_the_data_and_its_order_alone(faulty, tmp_path):
    def digest(cfg):
        return reported(cfg, tmp_path / "out")[1]["sha256"]

    first = digest(config(faulty))
    faulty["one"].license = "none"
    assert digest(config(faulty)) == first
    assert digest(config(faulty, seed=1)) != first
    faulty["two"].weight = 2
    assert digest(config(faulty)) != first


def test_the_page_has_tables_in_which_no_text_is_markup(faulty, tmp_path):
    faulty["one"].path = write(
        tmp_path / "one.jsonl",
        [*(row(i, kind="good") for i in range(9)), row(9, kind="good", prompt="<b>|\n| x" + LONG)],
    )
    reported(config(faulty), tmp_path / "out")
    page = (tmp_path / "out" / "mix.md").read_text()
    assert "### one: no_answer_left, 1" in page
    assert "&lt;b&gt;\\| \\| xa question" in page
    assert "https://example.org/one" in page
    assert "| all " in page.partition("\n## ")[0]
    for line in page.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_a_table_is_aligned_numbers_to_the_right():
    assert aligned_table(("name", "count"), [("a", "1"), ("long one", "1,000")]) == (
        "| name     | count |\n| -------- | ----: |\n| a        |     1 |\n| long one | 1,000 |"
    )


def test_without_packing_no_row_is_called_full(faulty, tmp_path):
    cfg = config(faulty)
    cfg.train.packing = False
    _, mix = reported(cfg, tmp_path / "out")
    assert mix["epoch"]["filled"] is None
    assert "Packing: off." in (tmp_path / "out" / "mix.md").read_text()


def test_the_picture_is_drawn_or_its_absence_told(faulty, tmp_path, monkeypatch, caplog):
    reported(config(faulty), tmp_path / "out")
    draw(tmp_path / "out")
    assert (tmp_path / "out" / "mix.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "out" / "mix.png").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    draw(tmp_path / "out")
    assert "no mix.png: matplotlib is not installed" in caplog.text
    draw(tmp_path / "nowhere")
    assert "no mix.png: " in caplog.records[-1].getMessage()
    assert not (tmp_path / "out" / "mix.png").exists()


def test_two_mixes_are_compared_by_digest_and_key(faulty, tmp_path):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    reported(config(faulty), tmp_path / "a")
    reported(config(faulty), tmp_path / "b")
    assert compare(a, b) == (True, f"A: {a}\nB: {b}\nthe same data in the same order")
    faulty["three"] = faulty.pop("two")
    faulty["one"].license = "CC0"
    reported(config(faulty), tmp_path / "b")
    same, text = compare(a, f"{b}/mix.json")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert not same
    assert "not the same data" in text
    assert ["sources.two", "20 examples", "absent"] in lines
    assert ["sources.three", "absent", "20 examples"] in lines
    assert ["sources.one.license", "MIT", "CC0"] in lines
    assert not any(line and line[0].startswith("sources.one.tokens") for line in lines)


def test_a_mix_of_an_earlier_version_is_compared_without_a_verdict(faulty, tmp_path):
    reported(config(faulty), tmp_path / "a")
    old = {"sources": [{"source": "one", "examples": 5}], "totals": {"train_examples": 5}}
    (tmp_path / "mix.json").write_text(json.dumps(old))
    same, text = compare(str(tmp_path), str(tmp_path / "a"))
    assert not same
    assert "not known whether the data is the same" in text
    assert "totals.train_examples" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no mix.json; effchal data and effchal train leave one"),
        ("{", "is damaged"),
        ("{}", "is no report of a data mix"),
    ],
)
def test_what_is_no_mix_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "mix.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        compare(str(tmp_path), str(tmp_path))
