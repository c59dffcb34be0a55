"""Sums that a model answers, as a task of Inspect: docs/lm_eval.md has the command.

Runs in Inspect's own environment (pip install inspect-ai openai), against `effchal serve`.
"""

import random

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message


@task
def sums(count: int = 20, seed: int = 0) -> Task:
    """Two numbers below 10 to add; right is an answer that has the sum in it."""
    draw = random.Random(seed)
    pairs = [(draw.randrange(10), draw.randrange(10)) for _ in range(count)]
    samples = [Sample(input=f"What is {a} + {b}?", target=str(a + b)) for a, b in pairs]
    solver = [system_message("Answer with the number alone."), generate(max_tokens=12)]
    return Task(dataset=MemoryDataset(samples), solver=solver, scorer=includes())
