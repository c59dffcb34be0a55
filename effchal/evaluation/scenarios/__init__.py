"""Questions and scores: HELM's scenarios, TruthfulQA's MC scores and a user's own file."""

from effchal.evaluation.scenarios.entries import load_scenario
from effchal.evaluation.scenarios.metrics import aggregate_extra, score_choices, score_completion
from effchal.evaluation.scenarios.types import (
    BiasTags,
    Instance,
    Reference,
    Scenario,
    ScenarioError,
    Settings,
    TextWindow,
)

__all__ = [
    "BiasTags",
    "Instance",
    "Reference",
    "Scenario",
    "ScenarioError",
    "Settings",
    "TextWindow",
    "aggregate_extra",
    "load_scenario",
    "score_choices",
    "score_completion",
]
