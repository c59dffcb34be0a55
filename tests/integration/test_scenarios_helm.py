"""Our scenarios against HELM itself, which runs with a stand-in for the model."""

import json
import random
import subprocess
import sys
import zlib

import pytest
from support.contest_data import contest_folder
from support.helm_stand_in import (
    HELM_BIN,
    MAX_INSTANCES,
    ByteWindow,
    StandIn,
    folder_of,
    helm_environment,
    model_window,
    run_helm,
)
from support.paths import ROOT, SHARED_DATA, SMOLLM2

from effchal.evaluation.scenarios.entries import load_scenario
from effchal.evaluation.scenarios.metrics import aggregate_extra, score_completion
from effchal.evaluation.scenarios.types import Instance, Reference, Scenario, Settings

pytestmark = [
    pytest.mark.skipif(
        not (HELM_BIN / "python").is_file(),
        reason="no HELM; run: bash scripts/helm.sh scenario=smoke ...",
    ),
    pytest.mark.skipif(
        not SHARED_DATA.is_dir(), reason="no folder ../shared/data beside the project"
    ),
]
ENTRIES = [
    "mmlu:subject=anatomy",
    "mmlu:subject=high_school_geography",
    "truthful_qa:task=mc_single",
    "bbq:subject=Religion",
    "bbq:subject=Age,method=multiple_choice_joint",
    "bbq:subject=all",  # nine of its eleven subjects made up below
    "bbq:subject=Race_x_SES",
    "gsm",
    "big_bench:task=snarks,subtask=",
    "big_bench:task=causal_judgement,subtask=",
    "big_bench:task=boolean_expressions,subtask=",
    "big_bench:task=made_up,subtask=letters",
    "big_bench:task=made_up,subtask=texts",
]
TRICKY = [  # completions
    *["A", " A", "A.", "A\n", "a", "B", "b", " C ", "D", "E", "", " ", "\n", "A B", "(A)", "(B)"],
    *["\u00a0B\u2003", "\uff21", "The answer is 5.", "#### 1,234", "-7", "3.14", "5 6", "3/4"],
    *["1,2,3", "yes, sir", "٣", "½", "no number, none", "the The a", "An apple!", "apple"],
    *["naïve café", "NAÏVE CAFÉ", "“quoted”", "Yes", "yes.", "True", "False."],
]


def completion(instance):
    """Something tricky, or something near a reference, always the same for one prompt."""
    choose = random.Random(zlib.crc32(instance.prompt.encode()))
    gold = choose.choice([reference.text for reference in instance.references])
    number = gold.split()[-1].strip(".")
    near = [
        gold,
        f" {gold}\n",
        gold.upper(),
        gold.strip(".()"),
        f"{gold} and more",
        f"So {number}",
        f"{number}.00",
    ]
    return choose.choice(choose.choice([TRICKY, near, [*instance.letters] or near]))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The shared data in a writable copy, and made-up files for what it lacks."""
    folder = tmp_path_factory.mktemp("data") / "scenarios"
    contest_folder(folder)
    return folder


@pytest.fixture(scope="module", params=["bytes", str(SMOLLM2)], ids=["bytes", "smollm2"])
def both(request, data, tmp_path_factory):
    """By entry: our scenario, the completion of each instance, HELM's output folder."""
    if request.param == str(SMOLLM2) and not (SMOLLM2 / "model.safetensors").is_file():
        pytest.skip("no small model; run: python scripts/fetch.py smollm2_135m")
    window = ByteWindow() if request.param == "bytes" else model_window(request.param)
    ours = {entry: load_scenario(entry, data, MAX_INSTANCES, window) for entry in ENTRIES}
    completions = {
        i.prompt: completion(i) for scenario in ours.values() for i in scenario.instances
    }
    tmp = tmp_path_factory.mktemp("helm")
    (tmp / "scenarios").symlink_to(data)
    folders = run_helm(tmp, StandIn(window, completions), ENTRIES)
    return {
        entry: (
            scenario,
            [completions[i.prompt] for i in scenario.instances],
            folder_of(folders, entry),
        )
        for entry, scenario in ours.items()
    }


def check_same_requests(scenario, folder):
    states = json.loads((folder / "scenario_state.json").read_text())["request_states"]
    assert [i.id for i in scenario.instances] == [state["instance"]["id"] for state in states]
    for instance, state in zip(scenario.instances, states, strict=True):
        request, helm = state["request"], state["instance"]
        assert instance.prompt == request["prompt"]
        assert instance.split == helm["split"]
        references = [
            (ref["output"]["text"], "correct" in ref["tags"]) for ref in helm["references"]
        ]
        assert [(ref.text, ref.correct) for ref in instance.references] == references
        letters = zip(
            instance.letters,
            (ref.text for ref in instance.references),
            strict=bool(instance.letters),
        )
        assert dict(letters) == state.get("output_mapping", {})
        if instance.tags:
            tags = [*helm["references"][0]["tags"]]
            kinds = [
                instance.tags.correct,
                instance.tags.target,
                instance.tags.non_target,
                instance.tags.unknown,
            ]
            assert kinds == tags[-4:]
            assert (instance.tags.negative, instance.tags.ambiguous) == (
                "negative" in tags,
                "ambiguous" in tags,
            )
        sent = (request["max_tokens"], tuple(request["stop_sequences"]), request["temperature"])
        assert (
            scenario.settings.max_new_tokens,
            scenario.settings.stops,
            scenario.settings.temperature,
        ) == sent
    return states


@pytest.mark.parametrize("entry", ENTRIES)
def test_instances_prompts_and_settings_are_helms(both, entry):
    scenario, _, folder = both[entry]
    states = check_same_requests(scenario, folder)
    assert len(states) == (
        32 if "made_up" in entry else MAX_INSTANCES
    )  # 32: all that there are, in file order


def test_long_prompts_lost_examples_and_were_cut(both, request):
    states = [
        state
        for _, _, folder in both.values()
        for state in json.loads((folder / "scenario_state.json").read_text())["request_states"]
    ]
    shots = {state["num_train_instances"] for state in states}
    if "bytes" in request.node.name:
        assert {0, 1, 2, 4, 5} <= shots
        assert any(state["prompt_truncated"] for state in states)
    else:
        assert 5 in shots


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_metric_of_every_instance_is_helms(both, entry):
    scenario, texts, folder = both[entry]
    by_id = {}
    for record in json.loads((folder / "per_instance_stats.json").read_text()):
        for stat in record["stats"]:
            by_id.setdefault(record["instance_id"], {})[stat["name"]["name"]] = stat.get("mean")
    assert scenario.settings.main_metric in by_id[scenario.instances[0].id]
    for instance, text in zip(scenario.instances, texts, strict=True):
        scores = score_completion(scenario, instance, text)
        assert scores == {name: by_id[instance.id][name] for name in scores}, (instance.id, text)


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.startswith("bbq")])
def test_bias_scores_are_helms(both, entry):
    scenario, texts, folder = both[entry]
    ours = aggregate_extra(scenario, list(zip(scenario.instances, texts, strict=True)))
    stats = json.loads((folder / "stats.json").read_text())
    helm = {
        s["name"]["name"]: s["mean"]
        for s in stats
        if s["name"]["name"] in ours and len(s["name"]) == 2
    }
    assert ours == pytest.approx(helm, abs=1e-15)
    assert len(ours) == 3


def test_summaries_are_asked_for_as_helm_does(data, tmp_path):
    entry = "summarization_cnndm:temperature=0.3,device=cpu"
    scenario = load_scenario(entry, data, MAX_INSTANCES, ByteWindow())
    (tmp_path / "scenarios").symlink_to(data)
    # A dry run: HELM's other metrics of summaries need packages beyond its own.
    folders = run_helm(tmp_path, StandIn(ByteWindow(), {}), [entry], "--dry-run")
    states = check_same_requests(scenario, *folders.values())
    assert len({state["num_train_instances"] for state in states}) > 2
    assert any(state["prompt_truncated"] for state in states)


def test_every_kind_of_entry_equals_helms():
    """Perturbations, shots, MATH and the hidden round; the bench has the table."""
    command = [sys.executable, ROOT / "benchmarks" / "helm_parity.py"]
    command += ["--instances", "4"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-3000:]
    assert "31 of 31 runs are equal in all" in ran.stdout  # all but two, which need NLTK's data


SCORE_BY_HELM = """
import json, sys
from helm.benchmark.metrics import evaluate_reference_metrics as metrics
from helm.benchmark.metrics.evaluate_reference_metrics import get_rouge_function

pairs, names = json.load(sys.stdin)
functions = {name: getattr(metrics, name, None) for name in names}
functions |= {f"rouge_{kind}": get_rouge_function(f"rouge{kind.upper()}") for kind in "12l"}
scores = [{name: functions[name](gold, text.strip()) for name in names} for gold, text in pairs]
print(json.dumps(scores))
"""
METRICS = ["exact_match", "quasi_exact_match", "prefix_exact_match", "quasi_prefix_exact_match"]
METRICS += ["exact_match_indicator", "final_number_exact_match", "rouge_1", "rouge_2", "rouge_l"]


def test_metrics_of_tricky_texts_are_helms(tmp_path):
    golds = [text for text in TRICKY if text.strip()] + [
        "Some 5 of them. The answer is 1234.",
        "The answer is 3.14.",
        "The answer is 6.",
        "4",
        ".",
    ]
    pairs = [
        (gold, text)
        for gold in golds
        for text in [*TRICKY, "The answer is 1,234", "an answer is 3.14!"]
    ]
    command, environment = [HELM_BIN / "python", "-c", SCORE_BY_HELM], helm_environment(tmp_path)
    ran = subprocess.run(
        command, env=environment, input=json.dumps([pairs, METRICS]), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    scenario = Scenario("any", (), Settings(1, METRICS[0], tuple(METRICS[1:])))
    for (gold, text), helm in zip(pairs, json.loads(ran.stdout.splitlines()[-1]), strict=True):
        ours = score_completion(scenario, Instance("id0", "", (Reference(gold, True),)), text)
        assert ours == helm, (gold, text)
