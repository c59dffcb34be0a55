"""effchal compare: differences that are known by construction, and folders that are refused."""

import json
import os
import subprocess
import sys

import pytest
from support.evaluations import write_bundle_files, write_evaluation, write_helm_run
from support.paths import ROOT

from effchal import compare as command
from effchal.config import ConfigError
from effchal.evaluation.results import prompt_digest
from effchal.evaluation.scored import model_label

RIGHT_A = [1.0] * 20 + [0.0] * 20
RIGHT_B = [1.0] * 18 + [0.0] * 2 + [1.0] * 10 + [0.0] * 10  # loses 2, gains 10


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pair(tmp_path):
    a = write_evaluation(tmp_path / "a", {"gsm": RIGHT_A})
    b = write_evaluation(tmp_path / "b", {"gsm": RIGHT_B})
    return str(a), str(b)


def compare(*arguments):
    return command.run(command.parser().parse_args([str(each) for each in arguments]))


def compared(*arguments):
    return json.loads(compare(*arguments, "--json"))


def test_a_difference_that_is_known_comes_out(pair):
    found = compared(*pair)
    (one,) = found["differences"]
    test = one["found"]
    assert test["counts"] == {"both": 18, "only_first": 2, "only_other": 10, "neither": 10}
    assert test["p"] == pytest.approx(0.0385742)
    assert test["difference"]["mean"] == pytest.approx(0.2)
    assert (test["instances"], one["unpaired"], one["p_corrected"]) == (40, 0, None)
    assert one["shown"]
    assert found["models"]["A"]["decoding"] == "greedy"
    assert not compared(*pair, "--confidence", "0.99")["differences"][0]["shown"]


def test_it_is_said_in_words(pair):
    assert (
        "GSM8K: B answers 8 more of 40 questions right than A; 95 % interval +3 % to "
        "+36 % of the questions; such a difference arises by chance in 1 of 26 cases: shown."
    ) in compare(*pair)
    other_way = compare(*reversed(pair), "--confidence", "0.99", "--markdown")
    assert "B answers 8 fewer of 40 questions right than A" in other_way
    assert "not shown. About 76 questions would show a difference of this size" in other_way
    assert "| GSM8K | exact_match | 40 | 0.700 | 0.500 | -0.200 | [" in other_way


def test_the_table_of_more_than_two_names_the_other_one(pair, tmp_path):
    c = write_evaluation(tmp_path / "c", {"gsm": [0.0] * 40})
    head, first, second = compare(*pair, c).splitlines()[4:7]  # below the models
    assert head.split()[3:6] == ["compared", "A", "other"]
    assert first.split()[3:9] == ["B", "-", "A", "0.500", "0.700", "+0.200"]
    assert second.split()[3:9] == ["C", "-", "A", "0.500", "0.000", "-0.500"]
    assert first.index("18/2/10/10") + 10 == second.index("0/20/0/20") + 9  # to the right


def test_a_model_with_the_same_answers_shows_nothing(pair, tmp_path):
    same = write_evaluation(tmp_path / "same", {"gsm": RIGHT_A})
    (one,) = compared(pair[0], same)["differences"]
    assert (one["found"]["p"], one["needed"], one["shown"]) == (1.0, None, False)
    assert "equally many of 40 questions right" in compare(pair[0], same)


def test_a_metric_between_0_and_1_flips_signs(tmp_path):
    rouge = [i / 40 for i in range(40)]
    a = write_evaluation(tmp_path / "a", {"summarization_cnndm": rouge}, "rouge_2")
    higher = [value + 0.1 + 0.05 * (i % 2) for i, value in enumerate(rouge)]
    b = write_evaluation(tmp_path / "b", {"summarization_cnndm": higher}, "rouge_2")
    test = compared(a, b, "--resamples", "999")["differences"][0]["found"]
    assert (test["test"], test["counts"]) == ("sign flips", None)
    assert test["difference"]["mean"] == pytest.approx(0.125)
    assert 0.11 < test["difference"]["low"] < 0.125 < test["difference"]["high"] < 0.14
    assert test["p"] == pytest.approx(0.001)
    assert "CNN/DM: B scores 0.125 higher than A on 40 questions" in compare(a, b)


def test_several_entries_are_corrected_and_subjects_are_taken_together(tmp_path):
    entries = ["mmlu:subject=anatomy", "mmlu:subject=virology", "gsm"]
    a = write_evaluation(tmp_path / "a", dict.fromkeys(entries, RIGHT_A))
    b = write_evaluation(tmp_path / "b", dict.fromkeys(entries, RIGHT_B))
    found = {each["entry"]: each for each in compared(a, b)["differences"]}
    assert list(found) == [*entries, "mmlu, 2 entries together"]
    assert found["gsm"]["p_corrected"] == pytest.approx(3 * 0.0385742)
    assert not found["gsm"]["shown"]
    together = found["mmlu, 2 entries together"]
    assert (together["found"]["instances"], together["p_corrected"]) == (80, None)
    assert together["shown"]
    text = compare(a, b)
    assert "MMLU, 2 entries together: B answers 16 more of 80" in text
    assert "arises by chance in 1 of 9 cases, corrected: not shown" in text


def test_more_than_two_are_compared_with_the_first(pair, tmp_path):
    c = write_evaluation(tmp_path / "c", {"gsm": [0.0] * 40})
    found = compared(*pair, c)["differences"]
    assert [(each["other"], each["found"]["counts"]["only_first"]) for each in found] == [
        ("B", 2),
        ("C", 20),
    ]
    assert found[0]["p_corrected"] == pytest.approx(0.0385742)
    assert found[1]["p_corrected"] == pytest.approx(2 * 2 * 0.5**20)


def test_decodings_of_one_evaluation_are_compared(tmp_path):
    both = {"greedy": {"gsm": RIGHT_A}, "dola low": {"gsm": RIGHT_B}}
    a = write_evaluation(tmp_path / "a", both)
    found = compared(a, "--decodings", "greedy", "dola low")
    assert [each["decoding"] for each in found["models"].values()] == ["greedy", "dola low"]
    assert found["differences"][0]["found"]["counts"]["only_other"] == 10
    b = write_evaluation(tmp_path / "b", both)
    assert compared(a, b, "--decoding", "dola low")["differences"][0]["found"]["p"] == 1.0
    with pytest.raises(ConfigError, match=r"has no decoding 'dola', only greedy, dola low$"):
        compare(a, b, "--decoding", "dola")
    sampled = write_evaluation(tmp_path / "c", {"gsm": RIGHT_A}, decoding="sample")
    assert compared(a, sampled)["models"]["B"]["decoding"] == "sample"


def test_instances_that_only_one_has_are_left_out_and_told(tmp_path):
    a = write_evaluation(tmp_path / "a", {"gsm": RIGHT_A})
    b = write_evaluation(tmp_path / "b", {"gsm": RIGHT_A[:30], "bbq:subject=Age": [1.0]})
    found = compared(a, b)
    assert found["differences"][0]["found"]["instances"] == 30
    assert found["differences"][0]["unpaired"] == 10
    assert found["refused"] == ["bbq:subject=Age: A does not have it"]
    text = compare(a, b)
    assert "Left out, for only one of the two answered them: gsm 10." in text
    assert "Not compared: bbq:subject=Age: A does not have it." in text


def test_entries_with_other_prompts_are_refused(pair, tmp_path):
    changed = {("gsm", 0): "another", ("gsm", 5): "another"}
    entries = {"gsm": RIGHT_A, "jsonl:path=mine.jsonl": RIGHT_A}
    other = write_evaluation(tmp_path / "c", entries, prompts=changed)
    with pytest.raises(ConfigError, match=r"compare: gsm: 2 of 40 prompts are not the same in A"):
        compare(pair[0], other)
    same = write_evaluation(tmp_path / "d", entries)
    found = compared(same, other)
    assert found["refused"] == ["gsm: 2 of 40 prompts are not the same in A and B"]
    assert [each["entry"] for each in found["differences"]] == ["jsonl:path=mine.jsonl"]


def test_a_run_of_helm_compares_with_ours(tmp_path):
    prompts = [f"question {i}" for i in range(40)]
    digests = {("gsm", i): prompt_digest(prompt) for i, prompt in enumerate(prompts)}
    ours = write_evaluation(tmp_path / "a", {"gsm": RIGHT_A}, prompts=digests)
    helm = write_helm_run(tmp_path / "b", "gsm", RIGHT_B, prompts)
    assert compared(ours, helm)["differences"][0]["found"]["p"] == pytest.approx(0.0385742)
    next(helm.rglob("per_instance_stats.json")).unlink()
    with pytest.raises(ConfigError, match="has no scores of single instances"):
        compare(ours, helm)


def test_a_run_stands_for_its_newest_finished_evaluation(tmp_path):
    runs = [tmp_path / "outputs" / "train" / name for name in ("one", "two")]
    digests = [write_bundle_files(run / "bundle", f'{{"a": "{run.name}"}}') for run in runs]
    evaluate = tmp_path / "outputs" / "evaluate"
    old = write_evaluation(evaluate / "old", {"gsm": RIGHT_B}, digest=digests[0])
    new = write_evaluation(evaluate / "new", {"gsm": RIGHT_A}, digest=digests[0])
    os.utime(old / "results.json", (1, 1))
    write_evaluation(evaluate / "half", {"gsm": RIGHT_A}, digest=digests[0], status="running")
    with pytest.raises(
        ConfigError,
        match=rf"no finished evaluation of {runs[1]} below outputs/; effchal evaluate {runs[0]}",
    ):
        compare(*runs)
    second = write_evaluation(evaluate / "sweep" / "1", {"gsm": RIGHT_B}, digest=digests[1])
    found = compared(runs[0], runs[1] / "bundle")
    folders = [each["folder"] for each in found["models"].values()]
    assert folders == [str(each.relative_to(tmp_path)) for each in (new, second)]
    # The newest has nothing in common with the other one, so an older one is taken.
    write_evaluation(evaluate / "newest", {"bbq:subject=Age": RIGHT_A}, digest=digests[0])
    assert compared(*runs)["models"]["A"]["folder"] == folders[0]


def test_the_folder_of_a_sweep_stands_for_its_evaluations(tmp_path):
    for number in (0, 2, 10):
        write_evaluation(tmp_path / "sweep" / str(number), {"gsm": RIGHT_A})
    found = compared(tmp_path / "sweep")["models"].values()
    assert [each["folder"].rpartition("/")[2] for each in found] == ["0", "2", "10"]


def test_an_unfinished_job_of_a_sweep_is_left_out_and_told(tmp_path):
    write_evaluation(tmp_path / "sweep" / "0", {"gsm": RIGHT_A})
    half = write_evaluation(tmp_path / "sweep" / "1", {"gsm": RIGHT_A}, status="running")
    with pytest.raises(ConfigError, match=f"{half} is running, not finished"):
        compare(tmp_path / "sweep")
    write_evaluation(tmp_path / "sweep" / "2", {"gsm": RIGHT_B})
    (tmp_path / "sweep" / "3").mkdir()
    (tmp_path / "sweep" / "3" / "config.yaml").touch()
    found = compared(tmp_path / "sweep")
    assert [each["folder"][-2:] for each in found["models"].values()] == ["/0", "/2"]
    assert found["refused"][0].startswith(f"{half} is running")
    assert f"{tmp_path}/sweep/3 is not finished" in compare(tmp_path / "sweep")


def test_a_job_of_a_sweep_is_named_with_its_sweep():
    record = {"model": {"bundle": "outputs/train/sweep/3/bundle", "base_model": "org/base"}}
    assert model_label(record) == "sweep/3"


@pytest.mark.parametrize("score", [1.0, 0.7])
def test_one_question_gives_no_interval(score, tmp_path):
    a = write_evaluation(tmp_path / "a", {"gsm": [0.0]})
    b = write_evaluation(tmp_path / "b", {"gsm": [score]})
    (one,) = compared(a, b)["differences"]
    assert (one["found"]["p"], one["shown"]) == (1.0, False)
    assert one["found"]["difference"] == {"mean": score, "low": None, "high": None}
    assert "95 % interval not known from one question" in compare(a, b)


def test_a_difference_of_rounding_is_none(tmp_path):
    a = write_evaluation(tmp_path / "a", {"gsm": [0.1 + 0.2, 0.5]})
    b = write_evaluation(tmp_path / "b", {"gsm": [0.3, 0.5]})
    assert "B and A score the same on 2 questions" in compare(a, b)
    assert compared(a, b)["differences"][0]["needed"] is None


def test_more_than_a_million_questions_are_not_counted(tmp_path):
    a = write_evaluation(tmp_path / "a", {"gsm": [0.1, 0.9]})
    b = write_evaluation(tmp_path / "b", {"gsm": [0.9, 0.100001]})
    assert "More than a million questions would show" in compare(a, b)


def test_folders_that_cannot_be_compared_are_one_line(pair, tmp_path):
    def why(*arguments):
        with pytest.raises(ConfigError) as caught:
            compare(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert why(pair[0], "nowhere").startswith("no folder nowhere (from ")
    assert why(pair[0]).startswith("one evaluation, ")
    (tmp_path / "foreign").mkdir()
    assert "is no evaluation, HELM run, training run or bundle" in why(pair[0], "foreign")
    (tmp_path / "foreign" / "results.json").write_text('{"scores": [1]}')
    assert why(pair[0], "foreign").endswith("is not of effchal evaluate: it names no model")
    (tmp_path / "foreign" / "results.json").write_text('{"scores": [1')
    assert "is damaged" in why(pair[0], "foreign")
    half = write_evaluation(tmp_path / "half", {"gsm": RIGHT_A}, status="running")
    assert why(pair[0], half).endswith(f"is running, not finished; effchal evaluate {half} goes on")
    lines = (tmp_path / "b" / "instances.jsonl").read_text().splitlines()
    (tmp_path / "b" / "instances.jsonl").write_text("\n".join(lines[:7]))
    assert "instances.jsonl has 7 of the 40 instances of gsm" in why(*pair)
    (tmp_path / "b" / "instances.jsonl").write_text('{"entry": "gsm", "id": 1}\n')
    assert "instances.jsonl is damaged" in why(*pair)
    assert "--confidence 2: must be in (0, 1)" in why(*pair, "--confidence", "2")
    assert "--resamples 1: must be in" in why(*pair, "--resamples", "1")
    same = write_evaluation(tmp_path / "same", {"gsm": RIGHT_A})
    assert "no entry has the metric mc9" in why(pair[0], same, "--metric", "mc9")
    assert why(pair[0], f"{pair[0]}/../a").endswith("/a is given twice; name each once")
    assert "greedy is given twice" in why(pair[0], "--decodings", "greedy", "greedy")
    assert why(pair[0], same, "--png", "no/x.png") == "--png no/x.png: no folder no"
    assert why(pair[0], same, "--png", "x.txt") == "--png x.txt: must end in .png, .svg, .pdf"
    assert "do not go together" in why(pair[0], "--decoding", "a", "--decodings", "b")


@pytest.mark.integration
def test_the_command_needs_no_torch_and_ends_with_0(pair):
    code = (
        "import sys, effchal.compare as command; command.main()\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *pair, "--markdown"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("# Comparison")
    assert result.stdout.endswith("[]\n")


def test_a_picture_is_drawn(pair, tmp_path):
    compare(*pair, "--png", tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5000
