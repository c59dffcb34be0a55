"""Evaluation end to end on the tiny model: records, controls, sweeps, resuming."""

import json
import random

import pytest
from support import forked
from support.configs import compose_config
from support.own_questions import SWEEP, evaluation_config, read_records
from support.paths import HELM_DATA, needs_shared_data

from effchal.bundle import write_bundle
from effchal.config import ConfigError
from effchal.evaluation.results import LONGEST
from effchal.evaluation.run import run
from effchal.model.tokenizer import load_tokenizer
from effchal.model_source import inference_config


@pytest.mark.integration
def test_every_table_carries_its_controls(data, tmp_path):
    table = run(evaluation_config(data, *SWEEP), tmp_path / "out")
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


@pytest.mark.integration
def test_a_record_says_what_was_asked_and_what_would_be_right(data, tmp_path):
    run(evaluation_config(data), tmp_path)
    rows = [json.loads(line) for path in data for line in path.read_text().splitlines()]
    for record, row in zip(read_records(tmp_path), rows, strict=True):
        assert record["prompt"] == row["prompt"]
        texts = [each["text"] for each in record["references"]]
        assert texts == row.get("choices", row.get("answers"))
        right = [i for i, each in enumerate(record["references"]) if each["correct"]]
        assert right == row.get("correct", [0])
    assert list(record)[:5] == ["entry", "id", "split", "prompt_sha256", "prompt"]


@pytest.mark.integration
def test_an_evaluation_of_an_older_version_goes_on(data, tmp_path):
    cfg = evaluation_config(data)
    run(cfg, tmp_path)
    whole = read_records(tmp_path)
    old = [{k: v for k, v in each.items() if k not in ("prompt", "references")} for each in whole]
    lines = [json.dumps(each) + "\n" for each in old[:3]]
    (tmp_path / "instances.jsonl").write_text("".join(lines))
    run(cfg, tmp_path)
    found = read_records(tmp_path)
    assert found[:3] == old[:3]  # not asked again
    assert len(found) == len(whole)
    assert all(record["prompt"] for record in found[4:])


@pytest.mark.integration
def test_the_longest_answer_control_knows_only_lengths(data, tmp_path):
    run(evaluation_config(data[1:], *SWEEP), tmp_path)
    for record in read_records(tmp_path):
        logprobs = record["decodings"][LONGEST]["logprobs"]
        assert sorted(logprobs) == logprobs
    scored = {
        record["id"]: record["decodings"][LONGEST]["metrics"]["mc1"]
        for record in read_records(tmp_path)
    }
    assert sum(scored.values()) == 1  # the third choice is the longest, and correct in one of five


def test_the_longest_answer_by_option_letter_is_that_of_the_longest_text(tmp_path):
    shot, asked = "What?,one,two,three,four,A\n", 'Which?,short,"much the longest",long,s,{}\n'
    questions = "".join(asked.format(correct) for correct in "ABBD")
    for split, content in (("dev", shot), ("val", shot), ("test", questions)):
        file = tmp_path / "data" / "mmlu" / "data" / split / f"x_{split}.csv"
        file.parent.mkdir(parents=True)
        file.write_text(content)
    cfg = evaluation_config(
        (), *SWEEP, "scenario.entries=['mmlu:subject=x']", f"scenario.path={tmp_path / 'data'}"
    )
    run(cfg, tmp_path / "out")
    found = {
        record["id"]: record["decodings"][LONGEST] for record in read_records(tmp_path / "out")
    }
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


@pytest.mark.integration
def test_a_sweep_from_one_forward_pass_gives_what_each_run_gives(data, tmp_path):
    run(evaluation_config(data, *SWEEP), tmp_path / "sweep")
    together = read_records(tmp_path / "sweep")
    for layers in ("[0]", "[1]", "[0,1]"):
        alone_dir = tmp_path / layers
        alone = (*SWEEP[:2], f"decoding.premature_layers={layers}")
        run(evaluation_config(data, *alone), alone_dir)
        for one, all_sets in zip(read_records(alone_dir), together, strict=True):
            assert (one["entry"], one["id"]) == (all_sets["entry"], all_sets["id"])
            same_numbers(all_sets["decodings"], one["decodings"])


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_evaluation_goes_on_to_the_same_bytes(data, tmp_path, seed):
    cfg = evaluation_config(data, *SWEEP)
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


@pytest.mark.integration
def test_a_bundle_is_evaluated_as_it_decodes_and_refused_when_changed(data, tmp_path):
    bundled = evaluation_config(data[1:], "decoding=dola_high", "decoding.premature_layers=[0,1]")
    write_bundle(tmp_path / "bundle", bundled, None, load_tokenizer(bundled.model))
    typed = [
        f"bundle={tmp_path / 'bundle'}",
        f"scenario.entries=['jsonl:path={data[1]}']",
        "evaluate.resamples=200",
    ]
    cfg = inference_config(compose_config(typed), typed, {"scenario", "evaluate"})
    run(cfg, tmp_path / "out")
    assert list(read_records(tmp_path / "out")[0]["decodings"]) == ["greedy", "dola 0+1", LONGEST]
    tokenizer = tmp_path / "bundle" / "tokenizer" / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes() + b" ")
    with pytest.raises(
        ConfigError, match=r"tokenizer\.json has changed since the bundle was written"
    ):
        run(cfg, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.integration
@needs_shared_data
def test_parts_of_one_scenario_are_pooled(tmp_path):
    subjects = ("anatomy", "philosophy")
    entries = ",".join(f"'mmlu:subject={subject}'" for subject in subjects)
    overrides = [f"scenario.entries=[{entries}]", f"scenario.path={HELM_DATA}"]
    cfg = evaluation_config(
        (), *overrides, "scenario.max_instances=4", "decoding.repetition_penalty=1.2"
    )
    run(cfg, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())["entries"]
    *parts, together = results.values()
    assert list(results)[2] == "mmlu, 2 entries together"
    assert together["instances"] == sum(part["instances"] for part in parts)
    assert list(together["decodings"]) == ["greedy", "greedy, penalty 1.2"]


def evaluate(*arguments):
    return forked.run(["evaluate", *arguments])


@pytest.mark.integration
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
