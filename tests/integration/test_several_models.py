"""effchal evaluate of several models: each scored once, compared at the end."""

import functools
import json
import re
import signal
import time

import pytest
from support import forked
from support.own_questions import write_questions

from effchal.config import load_config


def effchal(*arguments, folder):
    return forked.run(arguments, cwd=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a training run of the tiny model, and questions."""
    folder = tmp_path_factory.mktemp("work")
    write_questions(folder)
    train = ["model=tiny", "data_mix=quickstart", "budget=smoke", "train.max_steps=4"]
    train += ["train.examples_per_step=4", "train.lr=0.05", "hydra.run.dir=outputs/train/tuned"]
    result = effchal("train", *train, folder=folder)
    assert result.returncode == 0, result.stderr
    return folder


def evaluate(folder, *models):
    entries = "scenario.entries=['jsonl:path=texts.jsonl','jsonl:path=choices.jsonl']"
    before = set(folder.glob("outputs/evaluate/*"))
    options = ["scenario.max_instances=5", "evaluate.resamples=200"]
    result = effchal("evaluate", *models, entries, *options, folder=folder)
    (sweep,) = set(folder.glob("outputs/evaluate/*")) - before
    return result, sweep


def results(job):
    return json.loads((job / "results.json").read_text())


def test_base_against_tuned_is_one_command_and_no_model_is_asked_twice(folder):
    result, sweep = evaluate(folder, "base", "outputs/train/tuned")
    assert result.returncode == 0, result.stderr
    assert "B and A answer" in result.stdout or "B answers" in result.stdout
    jobs = [sweep / "0", sweep / "1"]
    base, tuned = (load_config(job / "config.yaml") for job in jobs)
    assert (base.bundle, base.lora) == (None, None)
    assert tuned.bundle == "outputs/train/tuned/bundle"
    assert base.prompt == tuned.prompt
    found = json.loads((sweep / "comparison.json").read_text())
    assert [each["model"] for each in found["models"].values()] == [
        "builtin:tiny (dev_base)",
        "tuned",
    ]
    assert [each["found"]["instances"] for each in found["differences"]] == [5, 5]
    texts = [(job / "instances.jsonl").read_text() for job in jobs]
    assert texts[0] != texts[1]
    for name in ("comparison.md", "comparison.png"):
        assert (sweep / name).stat().st_size > 300

    again, second = evaluate(folder, "outputs/train/tuned", "base", "base_plain")
    assert again.returncode == 0, again.stderr
    taken = [results(second / number).get("answers_from") for number in "012"]
    assert taken == [f"outputs/evaluate/{sweep.name}/1", f"outputs/evaluate/{sweep.name}/0", None]
    assert (second / "0" / "instances.jsonl").read_text() == texts[1]
    assert (second / "1" / "instances.jsonl").read_text() == texts[0]
    assert results(second / "0")["entries"] == results(jobs[1])["entries"]

    compared = effchal("compare", "outputs/train/tuned", str(second / "2"), "--json", folder=folder)
    assert compared.returncode == 0, compared.stderr
    models = json.loads(compared.stdout)["models"]
    assert models["A"]["folder"] == f"outputs/evaluate/{second.name}/0"  # the newest of it


def test_an_interrupt_names_what_does_the_rest_of_all_models(folder):
    row = {"answers": ["x"], "max_new_tokens": 20}
    lines = [json.dumps({"prompt": f"Question {number}:"} | row) for number in range(200)]
    (folder / "many.jsonl").write_text("\n".join(lines) + "\n")
    before = set(folder.glob("outputs/evaluate/*"))
    words = ["base", "outputs/train/tuned", "data=many.jsonl", "evaluate.rows_at_once=4"]
    words += ["evaluate.resamples=200"]
    # A process that a shell put into the background ignores the signal, as do those it starts.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = forked.Command(["evaluate", *words], cwd=folder, before=heard)
    sweep = None
    while process.poll() is None and not (sweep and any(sweep.glob("0/instances.jsonl"))):
        time.sleep(0.05)
        sweep = next(iter(set(folder.glob("outputs/evaluate/*")) - before), None)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGINT, told
    place = re.search(r"the same command with (hydra\.sweep\.dir=\S+)", told)[1]
    result = effchal("evaluate", *words, place, folder=folder)
    assert result.returncode == 0, result.stderr
    assert [results(sweep / job)["status"] for job in "01"] == ["finished", "finished"]
    assert (sweep / "comparison.json").is_file()
