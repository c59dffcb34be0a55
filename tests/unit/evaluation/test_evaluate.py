"""Evaluation end to end on the tiny model: records, controls, sweeps, resuming, errors."""

import json
import random
import shutil
import subprocess
import sys

import pytest
from support.paths import HELM_DATA, ROOT, needs_shared_data

from effchal.bundle import write_bundle
from effchal.cli import compose_config
from effchal.config import ConfigError
from effchal.decoding.taps import TappedModel
from effchal.evaluation.results import Records, plot, summarise
from effchal.evaluation.run import run
from effchal.evaluation.scenarios import ScenarioError
from effchal.evaluation.stats import mean_interval, paired_difference
from effchal.evaluation.variants import LONGEST, for_choices, variants_of
from effchal.model.load import ModelShape, load_tokenizer
from effchal.model.tiny import tiny_folder
from effchal.model_source import inference_config

SHAPE = ModelShape(num_layers=2, tied=False, max_positions=8192)
FEW = "The few examples that every question begins with are the same in all of them.\n\n"


@pytest.fixture
def data(tmp_path):
    """A user's own files: five questions to answer in text, five with choices."""
    texts, choices = tmp_path / "texts.jsonl", tmp_path / "choices.jsonl"
    rows = [
        {
            "prompt": f"{FEW}What is {i}?",
            "answers": [f"é\u2028{i}"],
            "max_new_tokens": 6,
            "stop": ["e"],
        }
        for i in range(5)
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [
        {"prompt": f"{FEW}Q{i}:", "choices": [" a", f" b{i} or", " longest"], "correct": [i % 3]}
        for i in range(5)
    ]
    choices.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return texts, choices


def config(data, *overrides):
    entries = ",".join(f"'jsonl:path={path}'" for path in data)
    common = [
        "model=tiny",
        "prompt=plain",
        "lora=none",
        "evaluate.resamples=200",
        "evaluate.rows_at_once=2",
    ]
    return compose_config(
        [*common, f"scenario.entries=[{entries}]", "scenario.max_instances=100", *overrides]
    )


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "instances.jsonl").read_text().splitlines()]


SWEEP = (
    "decoding=dola_high",
    "decoding.repetition_penalty=1.3",
    "sweep.premature_layers=[[0],[1],[0,1]]",
)


def test_every_table_carries_its_controls(data, tmp_path):
    table = run(config(data, *SWEEP), tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["status"] == "finished"
    texts, choices = (results["entries"][f"jsonl:path={path}"] for path in data)
    dolas = [f"dola {layers}" for layers in ("0", "1", "0+1")]
    plain_and_penalised = [
        name + penalty for name in ("greedy", *dolas) for penalty in ("", ", penalty 1.3")
    ]
    assert list(texts["decodings"]) == plain_and_penalised
    assert list(choices["decodings"]) == ["greedy", *dolas, LONGEST]
    assert choices["main_metric"] == "mc1"
    for entry in (texts, choices):
        for name, decoded in entry["decodings"].items():
            score = decoded["metrics"][entry["main_metric"]]
            assert score["low"] <= score["mean"] <= score["high"]
            assert ("differences" in decoded) == (name != "greedy")
            assert ("layers" in decoded) == name.startswith("dola")
    assert sum(texts["decodings"]["dola 0+1"]["layers"].values()) > 0
    for path in data:
        assert table.count(f"jsonl:path={path}") == (8 * 2 if path == data[0] else 5 * 3)  # metrics
    assert (tmp_path / "out" / "results.png").stat().st_size > 1000
    assert (tmp_path / "out" / "results.md").read_text() == table


def test_the_longest_answer_control_knows_only_lengths(data, tmp_path):
    run(config(data[1:], *SWEEP), tmp_path)
    for record in records(tmp_path):
        logprobs = record["decodings"][LONGEST]["logprobs"]
        assert sorted(logprobs) == logprobs
    scored = {
        record["id"]: record["decodings"][LONGEST]["metrics"]["mc1"] for record in records(tmp_path)
    }
    assert sum(scored.values()) == 1  # the third choice is the longest, and correct in one of five


def test_the_longest_answer_by_letter_is_that_of_the_longest_text(tmp_path):
    shot, asked = "What?,one,two,three,four,A\n", 'Which?,short,"much the longest",long,s,{}\n'
    questions = "".join(asked.format(correct) for correct in "ABBD")
    for split, content in (("dev", shot), ("val", shot), ("test", questions)):
        file = tmp_path / "data" / "mmlu" / "data" / split / f"x_{split}.csv"
        file.parent.mkdir(parents=True)
        file.write_text(content)
    cfg = config(
        (), *SWEEP, "scenario.entries=['mmlu:subject=x']", f"scenario.path={tmp_path / 'data'}"
    )
    run(cfg, tmp_path / "out")
    found = {record["id"]: record["decodings"][LONGEST] for record in records(tmp_path / "out")}
    assert [each["text"].strip() for each in found.values()].count(
        "B"
    ) == 4  # "three" is that of the other split
    (entry,) = json.loads((tmp_path / "out" / "results.json").read_text())["entries"].values()
    assert (
        entry["decodings"][LONGEST]["metrics"]["exact_match"]["mean"] == 2 / 4
    )  # of the test split
    assert set(entry["decodings"][LONGEST]["differences"]) == set(
        entry["decodings"]["greedy"]["metrics"]
    )


def same_numbers(found, expected):
    for name, decoded in expected.items():
        assert found[name]["metrics"] == pytest.approx(decoded["metrics"])
        assert found[name].get("text") == decoded.get("text")
        if "logprobs" in decoded:
            assert found[name]["logprobs"] == pytest.approx(decoded["logprobs"], abs=1e-3)


def test_a_sweep_from_one_forward_pass_gives_what_each_run_gives(data, tmp_path):
    run(config(data, *SWEEP), tmp_path / "sweep")
    together = records(tmp_path / "sweep")
    for layers in ("[0]", "[1]", "[0,1]"):
        alone_dir = tmp_path / layers
        alone = (*SWEEP[:2], f"decoding.premature_layers={layers}")
        run(config(data, *alone), alone_dir)
        for one, all_sets in zip(records(alone_dir), together, strict=True):
            assert (one["entry"], one["id"]) == (all_sets["entry"], all_sets["id"])
            same_numbers(all_sets["decodings"], one["decodings"])


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_evaluation_goes_on_to_the_same_bytes(data, tmp_path, seed):
    cfg = config(data, *SWEEP)
    run(cfg, tmp_path / "whole")
    run(cfg, tmp_path / "killed")
    path = tmp_path / "killed" / "instances.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: random.Random(seed).randrange(len(whole))])  # in the middle of a line
    (tmp_path / "killed" / "results.png").unlink()
    run(cfg, tmp_path / "killed")
    assert path.read_bytes() == whole == (tmp_path / "whole" / "instances.jsonl").read_bytes()
    results = [
        json.loads((tmp_path / name / "results.json").read_text())["entries"]
        for name in ("whole", "killed")
    ]
    assert results[0] == results[1]


def test_other_data_or_another_model_is_not_mixed_in(data, tmp_path):
    cfg = config(data[:1])
    run(cfg, tmp_path / "out")
    data[0].write_text(data[0].read_text().replace("What is 3", "Who is 3"))
    with pytest.raises(ScenarioError, match="is not the one recorded; bring the data back"):
        run(cfg, tmp_path / "out")
    shutil.copytree(tiny_folder(), tmp_path / "other")
    shape = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(shape | {"rms_norm_eps": 1e-3}))
    other = config(data[:1], f"model.name={tmp_path / 'other'}")
    with pytest.raises(ConfigError, match=r"begun with another model .*base_model"):
        run(other, tmp_path / "out")


def test_what_is_wrong_comes_up_before_anything_is_written(data, tmp_path):
    for overrides, message in (
        (
            ["decoding=dola_low", "decoding.premature_layers=[2]"],
            r"decoding\.premature_layers has \[2\].*0\.\.1",
        ),
        (
            ["decoding=dola_low", "sweep.premature_layers=[[0],[7]]"],
            r"sweep\.premature_layers\[1\] has \[7\]",
        ),
        (["scenario.entries=[]"], r"scenario\.entries is empty"),
        (["scenario.entries=[mmlu]"], "mmlu"),
        (["scenario.entries=[gsm,gsm]"], "scenario.entries has gsm more than once"),
        (["sweep.premature_layers=[[0]]"], "needs decoding.method=dola or sled"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(config(data, *overrides), tmp_path / "out")
    data[1].write_text(data[1].read_text() + '{"prompt": 5}\n')
    with pytest.raises(ScenarioError, match=r"choices\.jsonl.*6.*prompt"):
        run(config(data), tmp_path / "out")
    long = {"prompt": "x" * 9000, "choices": ["a", "b"], "correct": [0]}
    data[1].write_text(json.dumps(long) + "\n")
    with pytest.raises(
        ScenarioError, match="needs 9001 tokens, prompt and answer; this model holds 8192"
    ):
        run(config(data[1:]), tmp_path / "late")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize(
    "good", [14, 24]
)  # products before the first bad one: in the texts, in the choices
def test_logits_that_are_no_numbers_end_it_and_lose_nothing(data, tmp_path, monkeypatch, good):
    head = TappedModel.head
    calls = []

    def breaks(self, states):
        calls.append(1)
        return head(self, states) * (float("nan") if len(calls) > good else 1)

    monkeypatch.setattr(TappedModel, "head", breaks)
    with pytest.raises(FloatingPointError, match=r"jsonl:path=.*one of .*logits are not finite"):
        run(config(data, *SWEEP), tmp_path / "out")
    kept = (tmp_path / "out" / "instances.jsonl").read_bytes()
    assert 0 < kept.count(b"\n") < 10
    assert json.loads((tmp_path / "out" / "results.json").read_text())["status"] == "running"
    monkeypatch.undo()
    run(config(data, *SWEEP), tmp_path / "out")
    assert (tmp_path / "out" / "instances.jsonl").read_bytes().startswith(kept)


def test_a_bundle_is_evaluated_as_it_decodes_and_refused_when_changed(data, tmp_path):
    bundled = config(data[1:], "decoding=dola_high", "decoding.premature_layers=[0,1]")
    write_bundle(tmp_path / "bundle", bundled, None, load_tokenizer(bundled.model))
    typed = [
        f"bundle={tmp_path / 'bundle'}",
        f"scenario.entries=['jsonl:path={data[1]}']",
        "evaluate.resamples=200",
    ]
    cfg = inference_config(compose_config(typed), typed, {"scenario", "evaluate"})
    run(cfg, tmp_path / "out")
    assert list(records(tmp_path / "out")[0]["decodings"]) == ["greedy", "dola 0+1", LONGEST]
    tokenizer = tmp_path / "bundle" / "tokenizer" / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes() + b" ")
    with pytest.raises(
        ConfigError, match=r"tokenizer\.json has changed since the bundle was written"
    ):
        run(cfg, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@needs_shared_data
def test_parts_of_one_scenario_are_pooled(tmp_path):
    subjects = ("anatomy", "philosophy")
    entries = ",".join(f"'mmlu:subject={subject}'" for subject in subjects)
    overrides = [f"scenario.entries=[{entries}]", f"scenario.path={HELM_DATA}"]
    cfg = config((), *overrides, "scenario.max_instances=4", "decoding.repetition_penalty=1.2")
    run(cfg, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())["entries"]
    *parts, together = results.values()
    assert list(results)[2] == "mmlu, 2 entries together"
    assert together["instances"] == sum(part["instances"] for part in parts)
    assert list(together["decodings"]) == ["greedy", "greedy, penalty 1.2"]


def evaluate(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "effchal.evaluate", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_line_sweeps_resumes_and_refuses(data, tmp_path):
    entries = f"scenario.entries=['jsonl:path={data[1]}']"
    base = ["model=tiny", "prompt=plain", "lora=none"]
    common = [*base, entries, "decoding=dola_high", "evaluate.resamples=200"]
    swept = evaluate(
        "-m", *common, "decoding.premature_layers=[0],[1]", f"hydra.sweep.dir={tmp_path / 'sweep'}"
    )
    assert swept.returncode == 0, swept.stderr
    for number, name in enumerate(("dola 0", "dola 1")):
        (entry,) = json.loads((tmp_path / "sweep" / str(number) / "results.json").read_text())[
            "entries"
        ].values()
        assert list(entry["decodings"]) == ["greedy", name, LONGEST]
    first = tmp_path / "sweep" / "0"
    again = evaluate(*common, "decoding.premature_layers=[0]", f"hydra.run.dir={first}")
    assert again.returncode == 2
    assert "holds an evaluation already; go on with it by resume_from=" in again.stderr
    resumed = evaluate(f"resume_from={first}")
    assert resumed.returncode == 0, resumed.stderr
    assert "dola 0" in resumed.stdout
    (tmp_path / "run").mkdir()
    none = evaluate(f"resume_from={tmp_path / 'run'}")
    assert none.returncode == 2
    assert "is no evaluation: it has no results.json" in none.stderr


def test_variants_are_named_and_their_controls_go_with_them():
    def names(*overrides):
        return [variant.name for variant in variants_of(compose_config(list(overrides)), SHAPE)]

    assert names() == ["greedy"]
    assert names("decoding.repetition_penalty=1.2") == ["greedy", "greedy, penalty 1.2"]
    assert names("decoding=dola_high", "decoding.premature_layers=[0,1]") == ["greedy", "dola 0+1"]
    assert names("decoding=sled", "decoding.premature_layers=low") == ["greedy", "sled low"]
    paper = ["decoding=dola_paper", "decoding.premature_layers=[1]"]
    assert names(*paper) == ["greedy", "greedy, penalty 1.2", "dola 1", "dola 1, penalty 1.2"]
    assert names(*paper, "sweep.controls=false") == ["greedy", "dola 1, penalty 1.2"]
    assert names("decoding=sample") == ["sample"]
    found = for_choices(variants_of(compose_config(paper), SHAPE))
    assert list(found.values()) == ["greedy", "dola 1"]


def test_intervals_cover_what_they_should():
    assert mean_interval([1.0] * 5, 200, 0.95).to_dict() == {"mean": 1.0, "low": 1.0, "high": 1.0}
    generator = random.Random(0)
    covered = 0
    for _ in range(100):
        values = [float(generator.random() < 0.3) for _ in range(150)]
        interval = mean_interval(values, 500, 0.95)
        covered += interval.low <= 0.3 <= interval.high
    assert 88 <= covered <= 100
    a, b = [1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]
    assert paired_difference(a, b, 200, 0.95).mean == 0.25
    with pytest.raises(ValueError, match=r"longer|shorter"):
        paired_difference(a, b[:3], 200, 0.95)


def test_the_test_split_counts_and_pairs_are_compared(tmp_path):
    def record(number, split, greedy, other):
        decodings = {
            "greedy": {"text": str(greedy), "metrics": {"exact_match": greedy}},
            "dola 1": {"text": str(other), "metrics": {"exact_match": other}, "layers": {"1": 2}},
        }
        return {"entry": "e", "id": f"id{number}", "split": split, "decodings": decodings}

    found = [record(0, "test", 0.0, 1.0), record(1, "test", 1.0, 1.0), record(2, "valid", 1.0, 0.0)]
    kept = Records(tmp_path)
    kept.add(found)
    kept.add(found)  # written once
    assert len(records(tmp_path)) == 3
    cfg = compose_config(["evaluate.resamples=200"]).evaluate
    summary = summarise(
        [Records(tmp_path).get("e", f"id{i}") for i in range(3)], "exact_match", cfg
    )
    assert (summary["split"], summary["instances"]) == ("test", 2)
    dola = summary["decodings"]["dola 1"]
    assert (dola["metrics"]["exact_match"]["mean"], dola["differences"]["exact_match"]["mean"]) == (
        1.0,
        0.5,
    )
    assert (dola["answers_that_differ"], dola["layers"]) == (1, {"1": 4})
    plot({"e": summary}, tmp_path)
    assert not (tmp_path / "layers.png").exists()  # one layer is no choice
    dola["layers"]["0"] = 3
    plot({"e": summary}, tmp_path)
    assert (tmp_path / "layers.png").stat().st_size > 1000
