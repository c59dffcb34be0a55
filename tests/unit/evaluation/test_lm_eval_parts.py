"""A run of lm-eval's tasks without lm-eval: what is refused, what is kept, what is made of it."""

import json
import socket
from types import SimpleNamespace

import pytest
from support.configs import compose_config

from effchal.config import ConfigError, EvaluateConfig, save_config
from effchal.decoding.sampling import SamplingParams
from effchal.evaluation.lm_eval import environment, inside
from effchal.evaluation.lm_eval.answers import Answerer, Answers, grouped
from effchal.evaluation.lm_eval.conversation import Chat, Conversation
from effchal.evaluation.lm_eval.process import LmEvalError, LmEvalProcess
from effchal.evaluation.lm_eval.results import others_table, records_of, summary_of
from effchal.evaluation.results import LONGEST, ChoiceAnswer, TextAnswer
from effchal.evaluation.scenarios.types import Reference
from effchal.model.load import model_shape

TINY = ["model=tiny", "prompt=plain", "lora=none", "lm_eval.tasks=[own]"]


@pytest.fixture
def answerer(tiny_engine, tmp_path):
    """On the tiny model, as DoLa with all controls."""
    cfg = compose_config([*TINY, "decoding=dola_high", "decoding.repetition_penalty=1.2"])
    source = SimpleNamespace(shape=model_shape(cfg.model))
    found = Answerer(cfg, source, tiny_engine.tokenizer, tmp_path)
    found.engine = tiny_engine
    yield found
    tiny_engine.clear()
    tiny_engine.prefix_cache.clear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["lm_eval.tasks=[]"], "lm_eval.tasks is empty; give at least one, e.g. tasks="),
        (["lm_eval.include_path=/nowhere"], "lm_eval.include_path: no folder /nowhere"),
        (["lm_eval.environment=."], r"environment=\. has no lm-eval "),
    ],
)
def test_what_is_missing_is_told_first(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        environment.made_ready(compose_config([*TINY, *changes]))


@pytest.mark.integration
def test_an_environment_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "PACKAGE", str(tmp_path / "gone.whl"))
    cfg = compose_config([*TINY, f"lm_eval.environment={tmp_path / 'env'}"])
    with pytest.raises(ConfigError, match=r"env cannot be made: ERROR.*gone\.whl.*pip install"):
        environment.make_environment(cfg)
    assert not (tmp_path / "env").exists()


def test_evaluate_leaves_a_run_of_lm_eval_alone(tmp_path):
    from effchal.evaluate import evaluate

    cfg = compose_config(TINY)
    save_config(cfg, tmp_path / "config.yaml")
    for name in ("results.json", "lm_eval.json"):
        (tmp_path / name).write_text("{}")
    cfg.resume_from = str(tmp_path)
    with pytest.raises(ConfigError, match=f"go on with: effchal lm_eval {tmp_path}"):
        evaluate(cfg, [], tmp_path)


def test_unknown_tasks_are_answered_with_the_nearest_names():
    names = ["hellaswag", "gsm8k", "gsm8k_cot", "ifeval"]
    known = {"gsm8k*": names[1:3], "ifeval": ["ifeval"]}
    manager = SimpleNamespace(all_tasks=names, match_tasks=lambda some: known.get(some[0], []))
    assert inside.names_of(manager, ["ifeval", "gsm8k*", "ifeval"]) == [
        "ifeval",
        "gsm8k",
        "gsm8k_cot",
    ]
    with pytest.raises(inside.TaskError, match=r"has helaswag, which .* did you mean hellaswag?"):
        inside.names_of(manager, ["helaswag"])


def test_tasks_that_lm_eval_would_refuse_later_are_refused_at_once():
    code, images = SimpleNamespace(UNSAFE_CODE=True), SimpleNamespace(MULTIMODAL=True)
    inside.check_tasks({"code": code}, may_run_code=True)
    with pytest.raises(inside.TaskError, match=r"lm_eval.confirm_run_unsafe_code=true allows it"):
        inside.check_tasks({"code": code}, may_run_code=False)
    with pytest.raises(inside.TaskError, match="has images"):
        inside.check_tasks({"images": images}, may_run_code=False)


def test_a_group_is_asked_whole_where_each_of_its_tasks_has_the_decoding():
    choices, text = (SimpleNamespace(OUTPUT_TYPE=kind) for kind in ("multiple_choice", "generate"))
    loaded = {
        "both": {"tasks": {"a": choices, "b": text}, "groups": {"both": "group"}},
        "one": {"tasks": {"c": choices}, "groups": {"one": "another"}},
    }
    assert inside.wanted_parts(loaded, ["multiple_choice"]) == [choices, "another"]
    assert inside.wanted_parts(loaded, ["multiple_choice", "generate"]) == ["group", "another"]


def scored(key, continuation, context="A question?"):
    return {"key": key, "task": "own", "args": [context, continuation]}


def test_requests_of_one_prompt_are_scored_together_under_every_decoding(answerer):
    requests = [scored("a", " yes"), scored("b", " not at all"), scored("a", " yes")]
    pairs = answerer.encoder.pairs([request["args"] for request in requests])
    assert [numbers for _, _, numbers in grouped(requests, pairs)] == [[0, 1]]
    found = answerer.answer("loglikelihood", requests)
    names = ["greedy", "greedy, penalty 1.2", "dola high", "dola high, penalty 1.2", LONGEST]
    assert sorted(found["a"]) == sorted(names)
    assert found["a"]["greedy"] == found["a"]["greedy, penalty 1.2"]
    assert found["a"]["dola high"]["logprob"] != found["a"]["greedy"]["logprob"]
    assert found["a"][LONGEST]["logprob"] < found["b"][LONGEST]["logprob"]
    ids, continuation = pairs[1]
    params = SamplingParams(0, echo_from=0)
    tokens = answerer.engine.complete([*ids, *continuation], params).tokens[len(ids) :]
    expected = sum(token.logprob for token in tokens)
    assert found["b"]["greedy"]["logprob"] == pytest.approx(expected, abs=1e-3)


def test_what_is_answered_is_not_asked_again(answerer, tmp_path):
    asked = {"key": "k", "task": "own", "args": ["One, two,", {"until": ["\n"], "max_gen_toks": 4}]}
    found = answerer.answer("generate_until", [asked])
    whole = answerer.answer("loglikelihood_rolling", [asked | {"key": "w", "args": ["a b c"]}])
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"key": "cut')
    answerer.answers = Answers(tmp_path)
    del answerer.__dict__["engine"]
    answerer.source = None  # nothing is loaded
    assert answerer.answer("generate_until", [asked]) == found
    assert answerer.answers["w"] == whole["w"]
    assert set(found["k"]["dola high"]) >= {"text", "finish_reason", "logprob", "tokens"}


def test_more_prompts_than_rows_are_answered_as_each_alone(answerer):
    answerer.cfg.evaluate.rows_at_once = 2
    contexts = ["One,", "One, two, three,", "What is it?", "", "A longer text that goes on"]
    settings = [{"max_gen_toks": length} for length in (1, 7, 3, 5, 2)]
    requests = [
        {"key": str(i), "task": "own", "args": [context, each]}
        for i, (context, each) in enumerate(zip(contexts, settings, strict=True))
    ]
    together = answerer.answer("generate_until", requests)
    for request in requests:
        answerer.answers.clear()
        alone = answerer.answer("generate_until", [request])[request["key"]]
        for name, values in alone.items():
            assert values["text"] == together[request["key"]][name]["text"]
        assert alone["greedy"]["tokens"] <= request["args"][1]["max_gen_toks"]


def test_a_setting_without_an_equal_ends_the_run_and_keeps_its_answers(answerer):
    talk = Conversation(answerer, Chat(None, ""))
    asked = {"key": "k", "task": "own", "args": ["One", {"num_beams": 2}]}
    message = {"ask": "generate_until", "requests": [asked]}
    with pytest.raises(ConfigError, match="num_beams"):
        talk._reply(message)
    talk._reply({"ask": "loglikelihood", "requests": [scored("a", " yes")]})
    with pytest.raises(LmEvalError, match="num_beams"):
        talk._reply(message)


def test_an_end_without_a_word_shows_the_log(tmp_path):
    (tmp_path / "log").write_text("Killed\n")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = LmEvalProcess(ours, tmp_path / "log")
        theirs.sendall(json.dumps({"error": "lm-eval failed: it"}).encode() + b"\n")
        with pytest.raises(LmEvalError, match=r"^lm-eval failed: it$"):
            process.receive()
        theirs.close()
        process.send({"answers": {}})
        with pytest.raises(LmEvalError, match=r"lm-eval ended; the end of .*log:\nKilled"):
            process.receive()


def test_questions_become_records_with_their_answers(tmp_path):
    answers = Answers(tmp_path)
    for key, logprob in (("a", -1.0), ("b", -2.0)):
        answers.add(key, {"greedy": {"logprob": logprob, "greedy": False, "layers": {"3": 2}}})
    answers.add("g", {"greedy": {"logprob": -3.0, "text": "four", "tokens": 1}})
    arguments = {"a": ["Q", " yes"], "b": ["Q", " no"], "g": ["Two and two?", {"until": []}]}
    kinds = {"a": "loglikelihood", "b": "loglikelihood", "g": "generate_until"}
    asked = {key: {"key": key, "kind": kinds[key], "args": args} for key, args in arguments.items()}
    question = {"id": 7, "requests": [asked["a"], asked["b"]], "target": 1, "metrics": {"acc": 0.0}}
    spoken = {"id": 0, "requests": [asked["g"]], "target": "four", "metrics": {}}
    told = {
        "greedy": {
            "choose": {"questions": [question], "metrics": {"acc": 0.0, "f1": 0.5, "x": None}},
            "say": {"questions": [spoken], "metrics": {"bleu": 12.0}},
        }
    }
    (record,) = records_of("choose", "multiple_choice", told, answers)
    assert (record.id, record.prompt) == ("7", "Q")
    assert record.references == [Reference(" yes", False), Reference(" no", True)]
    expected = ChoiceAnswer([-1.0, -2.0], {"acc": 0.0}, {"3": 2})
    assert record.decodings == {"greedy": expected}
    summary = summary_of("choose", [record], told, EvaluateConfig(resamples=100))
    assert summary.main_metric == "acc"
    assert summary.decodings["greedy"].of_all_instances == {"f1": 0.5}
    (record,) = records_of("say", "generate_until", told, answers)
    text = TextAnswer(text="four", logprob=-3.0, tokens=1, metrics={"log-likelihood": -3.0})
    assert record.decodings == {"greedy": text}
    groups = {"greedy": {"all": {"acc,none": 0.25, "acc_stderr,none": 0.1, "alias": "all"}}}
    table = others_table({"choose": summary}, groups)
    assert "| choose | f1 | greedy | 0.5 |\n| all | acc | greedy | 0.25 |\n" in table
    assert "stderr" not in table
    assert others_table({}, {}) == ""


def test_the_version_that_was_checked_is_installed():
    assert environment.PACKAGE.endswith("==0.4.13")
    assert "0.4.13" in inside.__doc__


def test_a_metric_that_some_questions_lack_is_told_of_all_alone():
    def mean(values):
        return sum(values) / len(values)

    instances = [
        SimpleNamespace(doc_id=number, request_type="generate_until", args=("Q", {}))
        for number in range(2)
    ]
    task = SimpleNamespace(
        task_name="own",
        OUTPUT_TYPE="generate_until",
        instances=instances,
        aggregation=lambda: {"acc": mean, "rare": mean, "bleu": max},
    )
    samples = [
        {"doc_id": 0, "target": "a", "filter": "none", "acc": True, "rare": 1, "bleu": (1, 2)},
        {"doc_id": 1, "target": "b", "filter": "none", "acc": False, "bleu": (1, 2)},
        {"doc_id": 1, "target": "b", "filter": "strict", "acc": True, "bleu": (1, 2)},
        {"doc_id": 0, "target": "a", "filter": "strict", "acc": True, "bleu": (1, 2)},
    ]
    for sample in samples:
        sample["metrics"] = [name for name in ("acc", "rare", "bleu") if name in sample]
    results = {"own": {"acc,none": 0.5, "rare,none": 1.0, "bleu,none": 3, "acc_stderr,none": 0}}
    found = inside.scored_task(task, samples, {"results": results})
    metrics = [each["metrics"] for each in found["questions"]]
    assert metrics == [{"acc": 1.0, "acc,strict": 1.0}, {"acc": 0.0, "acc,strict": 1.0}]
    assert found["metrics"] == {"acc": 0.5, "rare": 1.0, "bleu": 3}
