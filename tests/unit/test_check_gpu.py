"""The judgement of check_gpu.py: proofs, targets, table and exit code."""

import argparse
import json
import math

import check_gpu
import pytest
import torch
from gpu_check.session import Session
from gpu_check.table import report
from gpu_check.targets import targets
from gpu_check.workers import Part, Process, run_parts


@pytest.fixture
def session():
    return Session(tiny=True, ends_at=math.inf, write=lambda line: None)


def verdicts(session):
    return {target.what: target.verdict for target in targets(session)}


def trained(session, system, base="bf16", keep="none", tokens_per_s=100, **values):
    about = {"system": system, "base": base, "keep": keep, "segments": 1, "dropout": 0.0}
    session.tell("training", **about, tokens_per_s=tokens_per_s, **values)


def exit_code(session, tmp_path, missing=(), strict=False):
    args = argparse.Namespace(strict=strict, out=tmp_path)
    return check_gpu.finish(session, args, list(missing), 1.0)


def test_the_best_run_within_memory_is_compared_with_the_best_of_each_peer(session):
    trained(session, "effchal", tokens_per_s=150, allocated_gib=18.0)
    trained(session, "effchal", keep="full", tokens_per_s=120, allocated_gib=16.0)
    trained(session, "transformers + peft + Liger", tokens_per_s=100, allocated_gib=17.0)
    trained(session, "unsloth", tokens_per_s=151, allocated_gib=15.0)
    found = verdicts(session)
    assert found["training bf16: tokens/s over transformers + peft + Liger"] == "met"
    assert found["training bf16: memory over transformers + peft + Liger"] == "met"
    assert found["training bf16: tokens/s over unsloth"] == "not met"
    assert found["training bf16: memory over unsloth"] == "not met"
    assert found["training nf4: tokens/s over unsloth"] == "not measured"


def test_runs_out_of_memory_and_speeds_of_a_cpu_are_judged_by_nobody(session):
    session.tell("training", system="effchal", base="bf16", error="out of memory")
    decoded = {"system": "effchal", "base": "bf16", "rows": 1, "tokens": 512, "with_graphs": True}
    session.tell(
        "decoding", **decoded, how="greedy", step_ms=1.0, share_of_bandwidth=0.1, waits=None
    )
    assert set(verdicts(session).values()) == {"not measured"}


def test_decoding_is_judged_by_bandwidth_ratio_and_waits(session):
    decoded = {"system": "effchal", "base": "bf16", "rows": 1, "tokens": 512, "with_graphs": True}
    session.tell("decoding", **decoded, how="greedy", step_ms=5.0, share_of_bandwidth=0.7, waits=1)
    session.tell("decoding", **decoded, how="dola", step_ms=6.0, share_of_bandwidth=0.6, waits=2)
    off, long = decoded | {"with_graphs": False}, {"tokens": 4096, "how": "greedy", "waits": 1}
    session.tell("decoding", **off, how="greedy", step_ms=4.0, share_of_bandwidth=0.5, waits=1)
    session.tell("decoding", **decoded | long, step_ms=8.0, share_of_bandwidth=0.5)
    session.tell("decoding", **off | long, step_ms=9.0, share_of_bandwidth=0.5)
    found = verdicts(session)
    assert found["decoding bf16, 1 row: share of copy bandwidth"] == "met"
    assert found["decoding bf16, 1 row: DoLa's step over greedy's"] == "not met"
    assert (
        found["decoding bf16, 1 row, short prompt: speed with CUDA graphs over without"]
        == "not met"
    )
    assert found["decoding bf16, 1 row, long prompt: speed with CUDA graphs over without"] == "met"
    assert found["decoding bf16: most waits of the host a step"] == "not met"


def test_a_plan_is_compared_with_the_run_that_it_planned(session):
    session.tell("plan", base="bf16", keep="none", planned_gib=20.0)
    session.tell("plan", base="bf16", keep="full", planned_gib=20.0)
    trained(session, "effchal", allocated_gib=19.5)
    trained(session, "effchal", keep="full", allocated_gib=18.0)
    found = verdicts(session)
    assert found["planned over measured peak, bf16, none"] == "met"
    assert found["planned over measured peak, bf16, full"] == "not met"


def test_only_calls_as_the_package_makes_them_are_judged(session):
    call = {"call": "training", "dtype": "bfloat16", "new_length_ms": 9.0, "same_length_ms": 8.0}
    math_kernel = "_scaled_dot_product_attention_math"
    flash = "_scaled_dot_product_flash_attention"
    session.tell("attention", **call, cudnn=False, cudnn_as_is=True, kernels=[flash])
    session.tell("attention", **call, cudnn=True, cudnn_as_is=False, kernels=[math_kernel])
    found = verdicts(session)
    assert found["bf16 calls that take the math kernel"] == "met"
    assert found["a new length costs [ms]"] == "met"


def test_the_exit_code_is_that_of_the_proofs(session, tmp_path):
    session.tell("gradients", ok=True)
    session.tell("training", system="TRL", error="out of memory")
    assert exit_code(session, tmp_path) == 0
    assert exit_code(session, tmp_path, missing=["answers"]) == 1
    session.tell("gradients", model="llama", ok=False)
    assert exit_code(session, tmp_path) == 1
    text = (tmp_path / "table.md").read_text()
    assert "1 of 2 hold" in text
    assert "FAILED gradients: model llama" in text
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["section"] for line in lines] == ["gradients", "training", "gradients"]


def test_an_error_of_our_own_measurement_fails_the_check(session, tmp_path):
    session.tell("decoding", system="TRL", base="bf16", error="ValueError: theirs")
    session.tell("decoding", system="effchal", base="bf16", error="out of memory")
    assert exit_code(session, tmp_path) == 0
    session.tell("decoding", system="effchal", base="nf4", error="ValueError: ours")
    assert exit_code(session, tmp_path) == 1
    failures = [
        each for each in (tmp_path / "table.md").read_text().splitlines() if "FAILED" in each
    ]
    assert failures == ["FAILED decoding: system effchal, base nf4, error ValueError: ours"]


def test_targets_count_when_asked(session, tmp_path):
    trained(session, "effchal", tokens_per_s=100)
    trained(session, "unsloth", tokens_per_s=200)
    assert exit_code(session, tmp_path) == 0
    assert exit_code(session, tmp_path, strict=True) == 1


def test_an_error_is_a_result_and_the_next_part_goes_on(session):
    def fails(_):
        raise ValueError("no such\nkernel")

    def has_no_memory(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert not session.attempt("training", fails, base="bf16")
    assert not session.attempt("training", has_no_memory, base="nf4")
    assert session.attempt("training", lambda s: None)
    first, second = session.results
    assert first["error"].startswith("ValueError: no such kernel (tests/unit/test_check_gpu.py:")
    assert second["error"] == "out of memory"


def test_parts_that_cannot_run_say_why(session):
    run_parts(session, [Part("training", "m", "f", "bf16", "peer", ("no_such_package",))])
    assert session.results[-1]["skipped"] == "not installed: no_such_package"
    session.ends_at = -math.inf
    run_parts(session, [Part("training", "m", "f", "bf16", "peer")])
    assert session.results[-1]["skipped"] == "no time left"


@pytest.mark.integration
def test_a_process_that_takes_too_long_is_stopped(session):
    process = Process(session, [Part("training", "m", "f", "bf16", "peer", limit_s=0.2)])
    process.collect(session)
    assert session.results[-1]["error"] == "stopped: its time was over"
    assert session.results[-1]["system"] == "peer"


def test_the_table_names_what_was_not_measured(session):
    text = report(session, targets(session), ["answers"], 2.0)
    assert "| answers   | did not run" in text
    assert "## Training\n\nnot measured" in text
