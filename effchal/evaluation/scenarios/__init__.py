"""Questions and scores: HELM's scenarios, TruthfulQA's MC scores and a user's own file."""

from effchal.evaluation.scenarios.entries import load_scenario
from effchal.evaluation.scenarios.metrics import aggregate_extra, score_choices, score_completion
from effchal.evaluation.scenarios.perturbations import FAIRNESS, ROBUSTNESS
from effchal.evaluation.scenarios.run_arguments import expanded
from effchal.evaluation.scenarios.types import (
    BiasTags,
    Instance,
    MissingDataError,
    Reference,
    Scenario,
    ScenarioError,
    Settings,
    TextWindow,
)

__all__ = [
    "FAIRNESS",
    "ROBUSTNESS",
    "BiasTags",
    "Instance",
    "MissingDataError",
    "Reference",
    "Scenario",
    "ScenarioError",
    "Settings",
    "TextWindow",
    "aggregate_extra",
    "expanded",
    "load_scenario",
    "score_choices",
    "score_completion",
]
