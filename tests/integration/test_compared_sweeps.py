"""The end of a sweep over models, and answers that are taken from an earlier evaluation."""

import json

import pytest
from support.configs import compose_config
from support.evaluations import write_evaluation
from support.own_questions import evaluation_config, write_questions

from effchal import compare as command
from effchal.config import save_config
from effchal.evaluation.results import LONGEST
from effchal.evaluation.run import run
from effchal.evaluation.seeds import MEAN
from effchal.evaluation.sweep import compare_models


@pytest.fixture
def data(tmp_path):
    return write_questions(tmp_path)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Finished evaluations of three models."""
    monkeypatch.chdir(tmp_path)
    return [job(tmp_path / str(number), digest=f"model {number}") for number in range(3)]


def job(folder, **options):
    write_evaluation(folder, {"gsm": [1.0, 0.0] * 10}, **options)
    save_config(compose_config(["model=tiny", "evaluate.confidence=0.9"]), folder / "config.yaml")
    return folder


def models(folder):
    return json.loads((folder / "comparison.json").read_text())["models"]


def test_a_sweep_over_models_is_compared_with_the_first_and_kept(sweep, tmp_path):
    text = compare_models(sweep)
    assert "90 % interval" in text  # the confidence of the evaluations
    assert text.endswith("kept in .; again, or otherwise: effchal compare .\n")
    assert list(models(tmp_path)) == ["A", "B", "C"]
    assert (tmp_path / "comparison.md").read_text().startswith("# Comparison")
    assert (tmp_path / "comparison.png").stat().st_size > 5000


def test_a_model_that_failed_or_is_gone_leaves_the_others(sweep, tmp_path, caplog):
    (sweep[0] / "results.json").unlink()
    compare_models([*sweep, tmp_path / "gone"])
    assert [each["folder"] for each in models(tmp_path).values()] == list(map(str, sweep[1:]))
    assert f"{sweep[0]} failed; the others are compared with {sweep[1]}" in caplog.text
    results = json.loads((sweep[1] / "results.json").read_text())
    (sweep[1] / "results.json").write_text(json.dumps(results | {"status": "running"}))
    assert compare_models(sweep) == ""  # one is left


def test_a_sweep_over_something_else_is_not_compared(sweep, tmp_path):
    assert compare_models([*sweep, job(tmp_path / "3", digest="model 1")]) == ""
    assert not (tmp_path / "comparison.json").exists()


def decodings_job(folder, digest, decodings, *overrides):
    scores = {name: {"gsm": values} for name, values in decodings.items()}
    write_evaluation(folder, scores, digest=digest)
    save_config(compose_config(["model=tiny", *overrides]), folder / "config.yaml")
    return folder


def test_every_model_under_every_decoding_is_a_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    half, most = [1.0, 0.0] * 10, [1.0] * 15 + [0.0] * 5
    found = {"greedy": half, "dola low": most, LONGEST: half}
    jobs = [
        decodings_job(tmp_path / "sweep" / str(i), digest, found, "decoding=dola_low")
        for i, digest in enumerate(["model 1", "model 2"])
    ]
    text = compare_models(jobs)
    shown = [each["decoding"] for each in models(tmp_path / "sweep").values()]
    assert shown == ["greedy", "dola low", LONGEST, "greedy", "dola low"]
    assert "GSM8K  exact_match  20  E - A" in text
    again = command.run(command.parser().parse_args(["sweep"]))
    assert text.startswith(again.partition("\n\n")[0])
    one = command.run(command.parser().parse_args(["sweep", "--decoding", "dola low", "--json"]))
    assert len(json.loads(one)["models"]) == 2


def test_a_sweep_over_decodings_compares_them_and_no_greedy_is_there_twice(tmp_path):
    half, most = [1.0, 0.0] * 10, [1.0] * 15 + [0.0] * 5
    dola = {"greedy": half, "greedy, penalty 1.2": half, "dola low": most}
    greedy = {"greedy": half, "greedy, penalty 1.2": half}
    jobs = [decodings_job(tmp_path / "0", "model", greedy)]
    jobs += [decodings_job(tmp_path / "1", "model", dola, "decoding=dola_low")]
    seeds = {"sample, seed 0": half, "sample, seed 1": most, MEAN: half}
    jobs += [decodings_job(tmp_path / "2", "model", seeds, "decoding=sample")]
    add_seeds(jobs[2])
    text = compare_models(jobs)
    shown = [(each["decoding"], each["folder"][-1]) for each in models(tmp_path).values()]
    assert shown == [("greedy", "0"), ("greedy, penalty 1.2", "0"), ("dola low", "1"), (MEAN, "2")]
    assert (
        "D is a mean over 2 seeds. GSM8K: 0.500 (seed 0), 0.750 (seed 1); standard deviation 0.177."
    ) in text
    gaps = [each["found"]["difference"]["mean"] for each in differences(tmp_path)]
    assert gaps == pytest.approx([0.0, 0.25, 0.125])


def add_seeds(folder):
    """What an evaluation writes of its seeds, whose instances have no mean of their own."""
    results = json.loads((folder / "results.json").read_text())
    means = {"deviation": 0.1767767, "by_seed": {"0": 0.5, "1": 0.75}}
    results["entries"]["gsm"]["decodings"][MEAN] = {"seeds": {"exact_match": means}}
    (folder / "results.json").write_text(json.dumps(results))
    lines = [json.loads(each) for each in (folder / "instances.jsonl").read_text().splitlines()]
    for line in lines:
        del line["decodings"][MEAN]
    (folder / "instances.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))


def differences(folder):
    return json.loads((folder / "comparison.json").read_text())["differences"]


def test_base_model_adapter_template_and_data_are_named(tmp_path):
    jobs = [
        decodings_job(tmp_path / str(i), f"digest {i}", {"greedy": [1.0, 0.0]}, f"prompt={prompt}")
        for i, prompt in enumerate(["chatml", "plain", "tokenizer"])
    ]
    own = "prompt.user='Question: {content} Answer: '"
    jobs += [decodings_job(tmp_path / "3", None, {"greedy": [1.0, 0.0]}, "prompt=plain", own)]
    results = json.loads((jobs[3] / "results.json").read_text())
    results["model"] |= {"base_model": "/x/base", "revision": "0123456789abcdef"}
    (jobs[3] / "results.json").write_text(json.dumps(results))
    text = compare_models(jobs)
    found = models(tmp_path)
    assert [each["template"] for each in found.values()] == [
        "chatml",
        "plain",
        "tokenizer",
        "'Question: {content} Ans",
    ]
    assert (found["A"]["base"], found["A"]["adapter"]) == ("org/base", "adapter digest 0")
    assert (found["D"]["base"], found["D"]["adapter"]) == ("base@01234567", "no adapter")
    (data,) = json.loads((tmp_path / "comparison.json").read_text())["data"].values()
    assert (
        f"Data of A, with the digest of ids and prompts: GSM8K: 2 questions, {data['digest']}."
        in (text)
    )
    head = (tmp_path / "comparison.md").read_text().splitlines()[2]
    assert head == "|  | model | base model | adapter | template | decoding | evaluation |"


def test_more_than_26_sides_and_many_differences_are_shown(tmp_path):
    values = {f"dola {i}": [1.0, 0.0] for i in range(15)}
    jobs = [decodings_job(tmp_path / name, name, values) for name in ("0", "1")]
    text = compare_models(jobs)
    assert list(models(tmp_path))[25:] == ["Z", "AA", "AB", "AC", "AD"]
    assert "questions right" not in text  # a sentence for each would hide the table
    assert (tmp_path / "comparison.md").read_text().count("questions right") == 29


def test_answers_are_taken_only_where_the_same_was_asked(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "outputs" / "evaluate"

    def answers_from(name, *overrides):
        run(evaluation_config(data, *overrides), out / name)
        return json.loads((out / name / "results.json").read_text()).get("answers_from")

    assert answers_from("first", "evaluate.reuse=true") is None
    assert answers_from("asked again") is None
    assert answers_from("taken", "evaluate.reuse=true", "evaluate.resamples=100") == (
        "outputs/evaluate/asked again"
    )
    texts = [(out / name / "instances.jsonl").read_text() for name in ("asked again", "taken")]
    assert texts[0] == texts[1]
    assert answers_from("other template", "evaluate.reuse=true", "prompt=chatml") is None
    assert answers_from("fewer", "evaluate.reuse=true", "scenario.max_instances=3") is None
    data[0].write_text(data[0].read_text().replace("What is 3?", "What is three?"))
    assert answers_from("changed", "evaluate.reuse=true") is None
