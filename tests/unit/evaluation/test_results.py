"""Variants, intervals, records, summaries and plots of an evaluation."""

import json
import random

import pytest
from support.configs import compose_config
from support.own_questions import read_records

from effchal.evaluation.names import short_names
from effchal.evaluation.plots import plot
from effchal.evaluation.results import Record, Records, TextAnswer, summarise
from effchal.evaluation.stats import Interval, mean_interval
from effchal.evaluation.variants import contrasts_of, variants_of
from effchal.model.load import ModelShape

SHAPE = ModelShape(num_layers=2, tied=False, max_positions=8192)


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
    found = contrasts_of(variants_of(compose_config(paper), SHAPE))
    assert list(found.values()) == ["greedy", "dola 1"]


def test_entries_have_short_names_that_tell_them_apart():
    entries = {
        "mmlu:subject=college_biology": "MMLU college biology",
        "truthful_qa:task=mc_single": "TruthfulQA",
        "big_bench:task=causal_judgement,subtask=": "BIG-bench causal judgement",
        "gsm": "GSM8K",
        "jsonl:path=/a/b/mine.jsonl": "mine.jsonl",
        "mmlu, 5 entries together": "MMLU, 5 entries together",
        "simple_mcqa": "simple_mcqa",
    }
    assert short_names(entries) == entries
    alike = ["jsonl:path=/a/x.jsonl", "jsonl:path=/b/x.jsonl"]
    assert list(short_names(alike).values()) == alike


def test_intervals_cover_what_they_should():
    assert mean_interval([1.0] * 5, 200, 0.95) == Interval(mean=1.0, low=1.0, high=1.0)
    generator = random.Random(0)
    covered = 0
    for _ in range(100):
        values = [float(generator.random() < 0.3) for _ in range(150)]
        interval = mean_interval(values, 500, 0.95)
        covered += interval.low <= 0.3 <= interval.high
    assert 88 <= covered <= 100


def test_the_test_split_counts_and_pairs_are_compared(tmp_path):
    def record(number, split, greedy, other):
        decodings = {
            "greedy": TextAnswer(text=str(greedy), metrics={"exact_match": greedy}),
            "dola 1": TextAnswer(text=str(other), metrics={"exact_match": other}, layers={"1": 2}),
        }
        return Record("e", f"id{number}", split, "a digest", decodings)

    found = [record(0, "test", 0.0, 1.0), record(1, "test", 1.0, 1.0), record(2, "valid", 1.0, 0.0)]
    kept = Records(tmp_path)
    kept.add(found)
    kept.add(found)  # written once
    assert len(read_records(tmp_path)) == 3
    cfg = compose_config(["evaluate.resamples=200"]).evaluate
    summary = summarise(
        [Records(tmp_path).get("e", f"id{i}") for i in range(3)], "exact_match", cfg
    )
    assert (summary.split, summary.instances) == ("test", 2)
    dola = summary.decodings["dola 1"]
    assert dola.metrics["exact_match"].mean == 1.0
    assert dola.differences["exact_match"].mean == 0.5
    assert (dola.answers_that_differ, dola.layers) == (1, {"1": 4})
    plot({"e": summary}, tmp_path, 0.95)
    assert not (tmp_path / "layers.png").exists()  # one layer is no choice
    dola.layers["0"] = 3
    plot({"e": summary}, tmp_path, 0.95)
    assert (tmp_path / "layers.png").stat().st_size > 1000


LINES = [
    '{"entry": "e", "id": "id0", "split": "test", "prompt_sha256": "ab", "decodings": {"greedy": '
    '{"text": "a", "finish_reason": "stop", "logprob": -1.5, "base_logprob": -1.5, "tokens": 2, '
    '"layers": {"0": 2}, "metrics": {"exact_match": 1.0}}, '
    '"longest answer": {"text": "B", "metrics": {"exact_match": 0.0}}}}',
    '{"entry": "e", "id": "id1", "split": "valid", "prompt_sha256": "cd", "decodings": {"dola 0": '
    '{"logprobs": [-1.0, -2.0], "metrics": {"mc1": 1.0}, "layers": {"0": 3}}, '
    '"longest answer": {"logprobs": [-3.0, -4.0], "metrics": {"mc1": 1.0}}}}',
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_instances_jsonl_is_read_and_written_with_its_keys_in_order(line):
    assert Record.from_json(json.loads(line)).to_line() == line + "\n"


def test_a_line_of_an_older_version_is_kept_as_it_is(tmp_path):
    old = LINES[0].replace("base_logprob", "plain_logprob")
    (tmp_path / "instances.jsonl").write_text(old + "\n" + LINES[1][:50])
    record = Records(tmp_path).get("e", "id0")
    assert record.decodings["greedy"].logprob == -1.5
    assert record.decodings["greedy"].base_logprob == -1.5
    assert (tmp_path / "instances.jsonl").read_text() == old + "\n"


def test_a_first_line_that_was_cut_does_not_spoil_the_next_one(tmp_path):
    (tmp_path / "instances.jsonl").write_text(LINES[0][:50])
    Records(tmp_path).add([Record.from_json(json.loads(LINES[1]))])
    assert (tmp_path / "instances.jsonl").read_text() == LINES[1] + "\n"
