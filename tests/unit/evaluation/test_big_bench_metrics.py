"""The metrics of a BIG-bench task: ROUGE and BLEU, and what is said where one is missing."""

import json
import math

import pytest
from support.helm_stand_in import made_up_sentences
from support.scenario_files import load

from effchal.config import EvaluateConfig
from effchal.evaluation.results import DecodingSummary, EntrySummary, as_plain
from effchal.evaluation.scenarios.metrics import score_completion
from effchal.evaluation.scenarios.types import ScenarioError
from effchal.evaluation.stats import mean_interval
from effchal.evaluation.tables import results_table

ENTRY = "big_bench:task=t,subtask="
ROUGE = ("rouge_l", "rouge_1", "rouge_2")
BLEU = ("bleu_4", "bleu_1")


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("rouge_score")
    (tmp_path / "big_bench" / "t").mkdir(parents=True)
    write(tmp_path, "exact_str_match", "bleu", "rouge")
    return tmp_path


def write(folder, *metrics):
    task = made_up_sentences() | {"metrics": metrics}
    (folder / "big_bench" / "t" / "task.json").write_text(json.dumps(task))


def write_punkt(folder):
    """NLTK's data of sentences, which know no abbreviation."""
    english = folder / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (english / name).write_text("")


def test_all_metrics_are_computed_where_the_data_of_sentences_are_there(folder):
    write_punkt(folder)
    scenario = load(ENTRY, folder)
    settings = scenario.settings
    assert (settings.main_metric, settings.other_metrics) == (
        "exact_match",
        ("quasi_exact_match", *ROUGE, *BLEU),
    )
    assert scenario.not_measured == {}
    instance = scenario.instances[0]
    gold = instance.references[0].text
    found = score_completion(scenario, instance, gold)
    assert all(value == pytest.approx(1) for value in found.values())
    partly = score_completion(scenario, instance, "Dr. Li counts.")
    # "Dr" "." "Li" "counts" ".": five words of fifteen, the last of which are "It" "'s" n "!".
    assert partly["bleu_1"] == pytest.approx(math.exp(1 - 15 / 5))
    assert partly["bleu_4"] == pytest.approx(math.exp(1 - 15 / 5) / 2)  # one of two 4-grams
    assert 0 < partly["rouge_2"] < partly["rouge_1"] < 1
    assert partly["exact_match"] == 0


def test_a_missing_metric_is_named_and_costs_no_entry(folder):
    scenario = load(ENTRY, folder)
    assert scenario.settings.other_metrics == ("quasi_exact_match", *ROUGE)
    (reason,) = scenario.not_measured.values()
    assert list(scenario.not_measured) == ["bleu_1, bleu_4"]
    assert "effchal fetch" in reason
    interval = mean_interval([1.0, 0.0], 10, EvaluateConfig().confidence)
    summary = EntrySummary("test", 2, "exact_match", {"greedy": DecodingSummary({"m": interval})})
    assert "not_measured" not in as_plain(summary)
    summary.not_measured = scenario.not_measured
    told = results_table({ENTRY: summary}, {})
    assert f"Not measured:\n\n- {ENTRY}: bleu_1, bleu_4: {reason}" in told


def test_a_task_without_exact_match_goes_by_rouge_and_one_of_bleu_alone_needs_its_data(folder):
    write(folder, "rouge", "bleurt")
    settings = load(ENTRY, folder).settings
    assert (settings.main_metric, settings.other_metrics) == (ROUGE[0], ROUGE[1:])
    write(folder, "bleu")
    with pytest.raises(ScenarioError, match="punkt_tab"):
        load(ENTRY, folder)
