"""Models on one base model, asked by one engine: the answers are those of each by itself."""

import json
from dataclasses import replace

import pytest
from support.own_questions import SWEEP, evaluation_config, read_records, write_questions
from support.saved_adapters import NARROW, change_config, save_bundle

import effchal.evaluation.answers as answers
import effchal.evaluation.shared_engine as shared_engine
from effchal.config import ConfigError, load_config
from effchal.evaluation.run import run
from effchal.model_source import load_engine

FLOAT32 = "model.dtype=float32"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    wide = save_bundle(home / "wide", 1)
    words = ["prompt.user='Q: {content}\\nA:'"]
    return wide, save_bundle(home / "narrow", 2, words, r=8, targets=NARROW)


@pytest.fixture
def asked(folders, tmp_path):
    """Configs of the base model and two adapters, for the same questions."""
    base = evaluation_config(write_questions(tmp_path), *SWEEP, FLOAT32)
    configs = [base]
    for folder in folders:
        own = load_config(folder / "config.yaml")
        mine = replace(base, bundle=str(folder), name=folder.name, prompt=own.prompt)
        configs.append(replace(mine, model=own.model, lora=own.lora))
    return configs


@pytest.fixture
def loads(monkeypatch):
    """The bundles that engines are loaded for; None is a base model."""
    seen = []

    def load(source, memory_gib=None):
        seen.append(source.bundle and source.bundle.name)
        return load_engine(source, memory_gib)

    monkeypatch.setattr(answers, "load_engine", load)
    monkeypatch.setattr(shared_engine, "load_engine", load)
    return seen


def assert_same_answers(one, other):
    records = [
        {(each["entry"], each["id"]): each["decodings"] for each in read_records(folder)}
        for folder in (one, other)
    ]
    assert records[0].keys() == records[1].keys()
    for key, decodings in records[0].items():
        assert decodings.keys() == records[1][key].keys()
        for name, answer in decodings.items():
            expected = records[1][key][name]
            assert answer.get("text") == expected.get("text")
            for number in ("logprob", "logprobs"):
                if number in answer:
                    assert answer[number] == pytest.approx(expected[number], abs=2e-4)


def status(folder):
    return json.loads((folder / "results.json").read_text())["status"]


def test_three_models_are_asked_by_one_engine(asked, tmp_path, loads):
    for number, cfg in enumerate(asked):
        run(cfg, tmp_path / "alone" / str(number))
    assert loads == [None, "wide", "narrow"]
    loads.clear()
    places = [tmp_path / "together" / str(number) for number in range(3)]
    run(asked[0], places[0], list(zip(asked[1:], places[1:], strict=True)))
    assert [status(place) for place in places] == ["finished", "running", "running"]
    for cfg, place in zip(asked[1:], places[1:], strict=True):
        run(cfg, place)
    assert loads == [None]
    for number, place in enumerate(places):
        assert status(place) == "finished"
        assert_same_answers(place, tmp_path / "alone" / str(number))
        assert json.loads((place / "results.json").read_text())["device"]


def test_an_adapter_may_be_the_first(asked, tmp_path, loads):
    places = [tmp_path / "together" / str(number) for number in range(2)]
    run(asked[2], places[0], [(asked[0], places[1])])
    run(asked[0], places[1])
    run(asked[2], tmp_path / "alone")
    assert loads == [None, "narrow"]
    assert_same_answers(places[0], tmp_path / "alone")


def test_what_cannot_share_is_left_to_its_own_evaluation(asked, tmp_path, loads, folders):
    other = save_bundle(tmp_path / "other", 3)
    change_config(other / "adapter", use_dora=True)  # no bundle any more: its digests differ
    bad = replace(asked[1], bundle=str(other))
    bfloat16 = replace(asked[0], model=replace(asked[0].model, dtype="bfloat16"))
    places = [tmp_path / str(number) for number in range(3)]
    run(asked[1], places[0], [(bad, places[1]), (bfloat16, places[2])])
    assert loads == ["wide"]
    assert not any((place / "results.json").exists() for place in places[1:])


def test_an_adapter_that_cannot_be_loaded_costs_the_others_nothing(asked, tmp_path, monkeypatch):
    load = shared_engine.SharedEngine.adapter

    def refuse(self, bundle):
        if bundle is not None and bundle.name == "narrow":
            raise ConfigError("has values that are not finite")
        return load(self, bundle)

    monkeypatch.setattr(shared_engine.SharedEngine, "adapter", refuse)
    places = [tmp_path / str(number) for number in range(3)]
    run(asked[0], places[0], list(zip(asked[1:], places[1:], strict=True)))
    assert status(places[0]) == "finished"
    assert read_records(places[1])
    assert not (places[2] / "instances.jsonl").exists()


@pytest.mark.parametrize("fails", [1, 2])
def test_a_model_that_fails_costs_the_others_nothing(asked, tmp_path, monkeypatch, fails):
    """fails: 1 is the first of the evaluation, 2 another one."""
    from effchal.decoding.sequence import Sequence

    add = Sequence.add

    def broken(self, token_id, token):
        if (3 in self.params.ends) == (fails == 2):
            raise FloatingPointError("the model's logits are not finite")
        add(self, token_id, token)

    monkeypatch.setattr(Sequence, "add", broken)
    monkeypatch.setattr("effchal.evaluation.run.can_share", lambda *_: True)
    places = [tmp_path / "0", tmp_path / "1"]
    prepared = "effchal.evaluation.run.EvaluationTask"
    task = answers.EvaluationTask

    def marked(cfg, source, variants, records, ends):
        return task(cfg, source, variants, records, ends | ({3} if source.bundle else set()))

    monkeypatch.setattr(prepared, marked)
    others = [(asked[1], places[1])]
    if fails == 1:
        with pytest.raises(FloatingPointError, match="one of id"):
            run(asked[0], places[0], others)
        assert not (places[0] / "instances.jsonl").exists()
    else:
        run(asked[0], places[0], others)
        assert status(places[0]) == "finished"
        kinds = {each["entry"].rpartition("/")[2] for each in read_records(places[1])}
        assert kinds == {"choices.jsonl"}


def test_an_evaluation_that_was_stopped_goes_on_where_it_was(asked, tmp_path, monkeypatch):
    places = [tmp_path / "0", tmp_path / "1"]
    score = answers.text_record
    count = []

    def stop(*given):
        count.append(1)
        if len(count) > 3:
            raise KeyboardInterrupt
        return score(*given)

    monkeypatch.setattr("effchal.evaluation.batches.text_record", stop)
    with pytest.raises(KeyboardInterrupt):
        run(asked[0], places[0], [(asked[1], places[1])])
    assert [len(read_records(place)) for place in places] == [1, 1]  # a batch has two rows
    monkeypatch.undo()
    run(asked[0], places[0], [(asked[1], places[1])])
    run(asked[1], places[1])
    for number, place in enumerate(places):
        run(asked[number], tmp_path / "alone" / str(number))
        assert_same_answers(place, tmp_path / "alone" / str(number))
