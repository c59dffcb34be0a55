"""One odd run never stops the page, and what it holds is never taken for a number."""

import contextlib
import json
import random
import re

import pytest

from effchal.config import ConfigError
from effchal.evaluation.stats import mean_interval
from effchal.reporting.challenge import challenge_report
from effchal.reporting.collect import collect
from effchal.reporting.export import write_pngs
from effchal.reporting.headline import headline, interval_of, loss_cards
from effchal.reporting.page import fitting_page
from effchal.reporting.payload import Detail, report_of
from effchal.reporting.tables import estimate

METRIC = {"mean": 0.5, "low": 0.25, "high": 0.75}
RUN = {"status": "finished", "step": 2, "steps_planned": 2, "validation_loss": 2.5, "spent_s": 9.0}
RUN |= {"data_sha256": "d", "base_model": "b", "peak_memory_gib": 1.5, "limit_s": 60.0}
RUN |= {"plan": {"memory_gib": {"predicted": 1.0, "actual": 1.5}, "tokens_per_s": 5.0}}
RESULTS = {"status": "finished", "name": "a", "model": {"bundle": None, "base_model": "b"}}
ENTRY = {"split": "test", "instances": 1, "main_metric": "em"}
METRICS = {"em": METRIC, "exact_match_indicator": METRIC}
RESULTS |= {"entries": {"gsm": {**ENTRY, "decodings": {"greedy": {"metrics": METRICS}}}}}
LINES = [{"step": 1, "loss": 3.0, "spent_s": 4.0, "lr": 0.1}, {"step": 2, "validation_loss": 2.5}]
ANSWER = {"text": "4", "metrics": {"em": 1.0, "exact_match_indicator": 1.0}}
INSTANCE = {"entry": "gsm", "id": "1", "split": "test", "prompt_sha256": "x", "prompt": "2 + 2"}
INSTANCE |= {"references": [{"text": "4", "correct": True}], "decodings": {"greedy": ANSWER}}
SOURCE = {
    "source": "own",
    "license": "MIT",
    "rows": 9,
    "kept": 8,
    "dropped": {"loop": {"count": 1}},
}
MIX = {"sha256": "m", "sources": [SOURCE]}
ODD = [None, True, -1, 10**400, float("nan"), "", "</script>", [], {}, [[]], {"a": {"b": 1}}]


def runs_in(folder, run=RUN, results=RESULTS, lines=LINES, instance=INSTANCE, mix=MIX):
    for name, files in {
        "train": {
            "run.json": run,
            "config.yaml": {"name": "a"},
            "metrics.jsonl": lines,
            "mix.json": mix,
        },
        "good": {"run.json": RUN, "config.yaml": {"name": "b"}, "metrics.jsonl": LINES},
        "evaluation": {"results.json": results, "instances.jsonl": [instance]},
    }.items():
        (folder / name).mkdir(parents=True)
        for file, content in files.items():
            rows = content if file.endswith("l") and isinstance(content, list) else [content]
            (folder / name / file).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def mutated(value, draw):
    """The same with one part of another type."""
    if not isinstance(value, (dict, list)) or not value or draw.random() < 0.15:
        return draw.choice(ODD)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    chosen = draw.choice(list(keys))
    pairs = [(key, mutated(value[key], draw) if key == chosen else value[key]) for key in keys]
    return dict(pairs) if isinstance(value, dict) else [each for _, each in pairs]


@pytest.mark.parametrize("seed", range(200))
def test_a_page_is_made_whatever_one_file_holds(tmp_path, seed):
    draw = random.Random(seed)
    originals = {"run": RUN, "results": RESULTS, "lines": LINES, "instance": INSTANCE, "mix": MIX}
    name = draw.choice(list(originals))
    folder = runs_in(tmp_path, **{name: mutated(originals[name], draw)})
    page, data = report_of(collect([folder]), [folder], fitting_page)
    assert "</html>" in page
    good = [row for row in data["rows"] if row["run"].startswith("good")]
    assert [row["loss_after"] for row in good] == [2.5]
    with contextlib.suppress(ConfigError):
        challenge_report([folder])


def test_a_config_that_holds_itself_is_damaged(tmp_path):
    runs_in(tmp_path)
    (tmp_path / "train" / "config.yaml").write_text("a: &a\n  b: *a\n")
    assert [each.reason for each in collect([tmp_path]).damaged] == ["config.yaml holds itself"]


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: !!int ''", "a: !!bool x", "a: 2024-13-45"])
def test_odd_yaml_is_listed(tmp_path, text):
    runs_in(tmp_path)
    (tmp_path / "train" / "config.yaml").write_text(text)
    _, data = report_of(collect([tmp_path]), [tmp_path], fitting_page)
    (problem,) = data["problems"]
    assert problem["folder"].endswith("train")
    assert re.match(r"config.yaml is damaged|cannot be shown \(RecursionError", problem["reason"])


def test_numbers_too_large_are_not_measured(tmp_path):
    results = json.loads(json.dumps(RESULTS).replace("0.25", "1" + "0" * 400))
    answer = {"text": "4", "metrics": {"em": 10**400}}
    instance = {**INSTANCE, "decodings": {"greedy": answer, "b": {"logprobs": [10**400, -1.0]}}}
    runs_in(tmp_path, {**RUN, "step": 10**400}, results, [{"step": 1, "loss": 10**400}], instance)
    data = report_of(collect([tmp_path]), [tmp_path], lambda report: report.data(Detail()))
    assert data["problems"] == []
    assert [row.get("steps") for row in data["rows"]] == [None, 2, None]
    assert {curve["run"] for curve in data["curves"]} == {"good"}
    greedy, other = data["instances"][0]["answers"]
    assert "score" not in greedy
    assert "logprobs" not in other


def test_half_an_interval_is_none(tmp_path):
    half = {"metrics": {"em": {"mean": 0.5, "low": 0.25}}}
    entries = {"gsm": {**ENTRY, "decodings": {"greedy": half, "b": half}}}
    runs_in(tmp_path / "runs", results={**RESULTS, "entries": entries})
    found = collect([tmp_path])
    data = report_of(found, [tmp_path], lambda report: report.data(Detail()))
    assert {(each["score"], each["low"], each["high"]) for each in data["scores"]} == {
        (0.5, None, None)
    }
    assert tmp_path / "png" / "decodings_0.png" in write_pngs(data, tmp_path / "png")


@pytest.mark.parametrize("spent", [1e300, -1e300, 10**400, 0.0])
def test_absurd_paces_give_no_estimate(spent):
    steps = [{"step": 1, "spent_s": 1.0}, {"step": 2, "spent_s": spent}]
    assert estimate(steps, 1e300) == {}


def test_runs_of_unknown_data_are_in_no_group(tmp_path):
    runs = collect([runs_in(tmp_path, run={**RUN, "data_sha256": None})]).runs
    rows = [{"run": run.name, "loss_after": 2.5} for run in runs if run.kind == "train"]
    (card,) = loss_cards([run for run in runs if run.kind == "train"], rows)
    assert card["run"] == "good"
    assert "only run" in card["why"]


def score(model, value, instances, **more):
    found = mean_interval([value] * instances, 100, 0.95)
    head = {"entry": "gsm", "main": True, "metric": "em", "decoding": "greedy", "control": False}
    values = {"score": found.mean, "low": found.low, "high": found.high, "instances": instances}
    return head | values | {"model": model, "run": model, "trained": None} | more


def test_one_right_answer_is_not_surely_better_than_many():
    many = score("many", 0.9, 100) | {"low": 0.84, "high": 0.95}
    (card,) = headline([], [], [score("few", 1.0, 1), many])
    assert card["run"] == "few, greedy"
    assert "1 instance;" in card["why"]
    assert "that one on 100 instances" in card["why"]
    assert "may be chance" in card["why"]
    (card,) = headline([], [], [score("few", 1.0, 1), many | {"instances": None}])
    assert "that one on an unknown number of them" in card["why"]


def test_answers_that_are_all_wrong_have_the_exact_interval():
    assert interval_of(score("a", 0.0, 10)) == pytest.approx((0, 0.3085), abs=1e-4)
    assert interval_of(score("a", 1.0, 10)) == pytest.approx((0.6915, 1), abs=1e-4)
    assert interval_of(score("a", 1.0, 10) | {"high": None}) is None


def test_entries_of_one_short_name_are_two_measures(tmp_path):
    for name in "ab":
        entries = {f"jsonl:path={name}/q.jsonl": RESULTS["entries"]["gsm"]}
        runs_in(tmp_path / name, results={**RESULTS, "entries": entries})
    data = report_of(collect([tmp_path]), [tmp_path], lambda report: report.data(Detail()))
    titles = [card["title"] for card in data["headline"] if "q.jsonl" in card["title"]]
    assert len(set(titles)) == len(titles) == 2
