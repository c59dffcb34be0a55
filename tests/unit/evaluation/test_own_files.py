"""An evaluation of files of one's own on the tiny model: mixed kinds, graders, seeds, resuming."""

import json
import shutil
from statistics import fmean, stdev

import pytest
from support.configs import compose_config
from support.own_questions import read_records
from support.paths import ROOT

from effchal import compare as command
from effchal.evaluation import answers
from effchal.evaluation.encoding import encode
from effchal.evaluation.questions.files import own_files
from effchal.evaluation.questions.grader import GraderError
from effchal.evaluation.results import BASELINE, LONGEST
from effchal.evaluation.run import run
from effchal.evaluation.scored import read_scored
from effchal.evaluation.seeds import MEAN
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import PromptEncoder, Turn
from effchal.reporting.collect import collect
from effchal.reporting.scores import scores_of

DOLA = ("decoding=dola_high", "sweep.premature_layers=[[0]]", "decoding.repetition_penalty=1.3")
GRADE = "def grade(prompt, answer, row):\n    {}\n    return len(answer)\n"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "examples" / "questions.jsonl", "q.jsonl")


def config(*overrides, data="q.jsonl"):
    common = ["model=tiny", "lora=none", "prompt=chatml", "evaluate.resamples=200"]
    common += [f"scenario.data=[{data}]", "scenario.entries=[]", "decoding.max_new_tokens=6"]
    return compose_config([*common, *overrides])


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.integration
def test_one_score_is_over_all_rows_of_every_kind_and_decoding(tmp_path):
    run(config(*DOLA, "evaluate.rows_at_once=4"), tmp_path / "out")
    records, entry = read_records(tmp_path / "out"), results(tmp_path / "out")["entries"]["q.jsonl"]
    names = [name + more for name in (BASELINE, "dola 0") for more in ("", ", penalty 1.3")]
    assert list(entry["decodings"]) == names  # no longest answer: only rows with options have it
    choices = next(each for each in records if each["id"] == "row5")
    assert set(choices["decodings"]) == {*names, LONGEST}
    for name, decoded in entry["decodings"].items():
        found = [each["decodings"][name]["metrics"] for each in records]
        assert decoded["metrics"]["score"]["mean"] == pytest.approx(
            fmean(m["score"] for m in found)
        )
        assert decoded["counts"]["number"] == sum("number" in m for m in found) == 2
        facts = [m["score (facts)"] for m in found if "score (facts)" in m]
        assert decoded["metrics"]["score (facts)"]["mean"] == pytest.approx(fmean(facts))
        assert ("differences" in decoded) == (name != BASELINE)
    assert "| q.jsonl | number (n = 2) | greedy |" in (tmp_path / "out" / "results.md").read_text()
    limits = {each["id"]: each["decodings"]["greedy"].get("tokens") for each in records}
    assert limits["row3"] > 6 >= limits["row1"]  # of the row, of decoding.max_new_tokens


@pytest.mark.integration
def test_other_commands_read_such_results(tmp_path):
    run(config(), tmp_path / "a")
    run(config("decoding.repetition_penalty=1.5"), tmp_path / "b")

    def compared(*options):
        typed = ["a", "b", "--decoding", "greedy", "--json", *options]
        return json.loads(command.run(command.parser().parse_args(typed)))["differences"]

    assert [each["found"]["instances"] for each in compared()] == [9]
    assert [each["found"]["instances"] for each in compared("--metric", "contains")] == [1]
    assert compared()[0]["entry"] == "q.jsonl"
    (found,) = collect([tmp_path / "a"]).runs
    shown = {each["metric"]: each for each in scores_of(found)}
    assert (shown["score"]["main"], shown["score"]["instances"]) == (True, 9)
    assert shown["number"]["instances"] == 2


@pytest.mark.integration
def test_a_function_that_fails_loses_no_answer(tmp_path, caplog, no_model_after_first):
    out, grader = tmp_path / "out", tmp_path / "g.py"
    grader.write_text(GRADE.format("assert 'French' not in str(prompt), 'no French'"))
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Say {x}."}) + "\n" for x in ("yes", "it in French", "no"))
    )
    cfg = config(f"evaluate.grader={grader}:grade")
    message = r"^q\.jsonl, line 2: g\.py:grade, line 2 raised AssertionError: no French$"
    with pytest.raises(GraderError, match=message):
        run(cfg, out)
    assert caplog.text.count("the answers go on, and are graded again at the end") == 1
    before = read_records(out)
    assert [bool(each["decodings"]["greedy"]["metrics"]) for each in before] == [True, False, True]
    assert results(out)["status"] == "running"
    no_model_after_first()
    with pytest.raises(GraderError, match="no French"):
        run(cfg, out)
    grader.write_text(GRADE.format(""))
    run(cfg, out)
    after = read_records(out)
    texts = [each["decodings"]["greedy"]["text"] for each in after]
    assert texts == [each["decodings"]["greedy"]["text"] for each in before]
    scores = [each["decodings"]["greedy"]["metrics"]["score"] for each in after]
    assert scores == list(map(len, texts))
    assert results(out)["entries"]["q.jsonl"]["decodings"]["greedy"]["metrics"]["score"][
        "mean"
    ] == pytest.approx(fmean(scores))
    assert results(out)["grader"]["function"] == "g.py:grade"


@pytest.fixture
def no_model_after_first(monkeypatch):
    """Call it to let no model be loaded from then on."""

    def refuse(*_):
        raise AssertionError("the model is asked again")

    return lambda: monkeypatch.setattr(answers, "load_engine", refuse)


@pytest.mark.integration
def test_right_answers_that_change_are_graded_again(tmp_path, no_model_after_first):
    rows = [{"prompt": "2 + 2?", "answer": "4"}, {"prompt": "2 + 3?", "answer": "5"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(config(), tmp_path / "out")
    text = read_records(tmp_path / "out")[0]["decodings"]["greedy"]["text"]
    no_model_after_first()
    rows[0] |= {"answer": text, "match": "contains"}
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(config(), tmp_path / "out")
    first, second = read_records(tmp_path / "out")
    assert first["decodings"]["greedy"]["metrics"] == {"score": 1.0, "contains": 1.0}
    assert first["references"] == [{"text": text, "correct": True}]
    assert "exact" in second["decodings"]["greedy"]["metrics"]


@pytest.mark.integration
def test_seeds_have_a_mean_and_a_spread(tmp_path):
    sample = ("decoding=sample", "decoding.temperature=2.0", "evaluate.seeds=[0,7]")
    run(config(*sample), tmp_path / "out")
    decodings = results(tmp_path / "out")["entries"]["q.jsonl"]["decodings"]
    assert list(decodings) == ["sample, seed 0", "sample, seed 7", MEAN]
    records = read_records(tmp_path / "out")
    texts = {
        name: [each["decodings"][name].get("text") for each in records]
        for name in ("sample, seed 0", "sample, seed 7")
    }
    assert texts["sample, seed 0"] != texts["sample, seed 7"]
    means = [decodings[name]["metrics"]["score"]["mean"] for name in texts]
    mean = decodings[MEAN]
    assert mean["metrics"]["score"]["mean"] == pytest.approx(fmean(means))
    assert mean["seeds"]["score"]["deviation"] == pytest.approx(stdev(means))
    assert mean["seeds"]["score"]["by_seed"] == dict(zip("07", means, strict=True))
    scored = read_scored(tmp_path / "out")  # the mean, for there is no greedy
    assert scored.decoding == MEAN
    found = [each.metrics["score"] for each in scored.entries["q.jsonl"].instances.values()]
    assert fmean(found) == pytest.approx(fmean(means))
    assert "seeds ±" in (tmp_path / "out" / "results.md").read_text()
    (run_found,) = collect([tmp_path / "out"]).runs
    mains = [each["decoding"] for each in scores_of(run_found) if each["main"]]
    assert mains == [MEAN]  # the best of several seeds is no score of a model


def test_choices_after_messages_are_what_the_model_would_answer(tmp_path):
    row = {"messages": [{"role": "user", "content": "2?"}], "choices": ["two", "x"], "correct": 0}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    cfg = config()
    encoder = PromptEncoder(load_tokenizer(cfg.model), cfg.prompt)
    (each,) = encode(own_files(cfg).scenarios[0], encoder, 1000)
    turns = [Turn("user", "2?"), Turn("assistant", "two")]
    whole = encoder.conversation_ids(turns)[0]
    assert whole == [*each.prompt_ids, *each.choice_ids[0], encoder.eos_id]
    assert each.prompt_ids == encoder.prompt_ids(turns[:1])
