"""What is asked and how answers are scored: HELM's scenarios, TruthfulQA's MC scores and a user's own file."""

from effchal.scenarios.entries import load_scenario
from effchal.scenarios.metrics import aggregate_extra, score_choices, score_completion
from effchal.scenarios.types import BiasTags, Instance, Reference, Scenario, ScenarioError, TextWindow

__all__ = [
    "BiasTags",
    "Instance",
    "Reference",
    "Scenario",
    "ScenarioError",
    "TextWindow",
    "aggregate_extra",
    "load_scenario",
    "score_choices",
    "score_completion",
]
