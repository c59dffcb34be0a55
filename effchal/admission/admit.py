"""The admission check: does the fast way give what the model's own code gives, text by text?

It runs before data or hours are spent. First a small random copy of the architecture is
tried in float32, where windows are short and a slip shows. Then the model itself confirms
what was found, on a short text. What fails takes the slower way that is right.
"""

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from effchal.admission.check import Check
from effchal.admission.measure import COPY, ITSELF, Sizes
from effchal.admission.small_copy import small_copy
from effchal.model.device import multiplies_bfloat16
from effchal.model.load import evaluation_mode
from effchal.model.route import Decoding, Route, route_of, set_route
from effchal.model.structure import causal_lm, max_positions, rope_switch
from effchal.model.tokenizer import ModelError

log = logging.getLogger(__name__)

known: dict[tuple[str, bool], Route] = {}  # by config, and whether texts go beyond the switch


def admit_architecture(config: Any, longest: int | None = None) -> Route:
    """The route of an architecture, by a small random copy of it.

    Args:
        config: transformers', of the model.
        longest: tokens of the longest text; by default all that the model takes.

    Raises:
        ModelError: no way gives what the model's own code gives.
    """
    text = config.get_text_config()
    limit, switch = max_positions(text), rope_switch(text)
    longest = min(longest or limit, limit)
    key = text.to_json_string(use_diff=False), switch is not None and longest > switch
    if key not in known:
        copied = small_copy(config, longest)
        # What the library itself does to generate; the model itself may show no more than that.
        note = f"{type(text).__name__}: no small copy could be tried, so it takes the slow ways"
        known[key] = Route(packed=False, decoding=Decoding.library, notes=(note,))
        if copied is not None:
            start = Route(copied=True)
            known[key] = Check(copied, COPY).route(start, training=True, decoding=True)
    return known[key]


def admit(model: nn.Module) -> Route:
    """Check a model for decoding and scoring, and set its route.

    Raises:
        ModelError: no way gives what the model's own code gives.
    """
    whole = causal_lm(model)
    route = admit_architecture(whole.config)
    if can_try_itself(model):
        route = Check(model, sizes_for(route)).route(route, training=False, decoding=True)
    set_route(model, route)
    for note in route.notes:
        log.warning("%s", note)
    return route


def sizes_for(route: Route) -> Sizes:
    """Of texts to try a model itself with: all that its copy could not show."""
    return ITSELF if route.copied else replace(ITSELF, thorough=True)


class TrainingAdmission:
    """Checks a model for training, before and after its layers are prepared for it.

    Args:
        model: the base model, whose route is set.
        longest: tokens of the longest example.

    Raises:
        ModelError: no way gives what the model's own code gives.
    """

    def __init__(self, model: nn.Module, longest: int) -> None:
        self._model = model
        set_route(model, admit_architecture(causal_lm(model).config, longest))
        self._check: Check | None = None
        if can_try_itself(model):
            with evaluation_mode(model):
                route = route_of(model)
                self._check = Check(model, sizes_for(route))
                route = self._check.route(route, training=True, decoding=False)
            set_route(model, route)
        for note in route_of(model).notes:
            log.warning("%s", note)

    @torch.no_grad()
    def confirm(self, device: torch.device | None = None) -> None:
        """Call once adapter and training layers are in place.

        Args:
            device: where the model computes by now, if it was moved.

        Raises:
            ModelError: they do not give what the library's own layers gave.
        """
        if self._check is None:
            return
        if device is not None:
            self._check.follow(device)
        with evaluation_mode(self._model):
            if not self._check.trains_right():
                raise ModelError(
                    f"{type(causal_lm(self._model)).__name__}: training's layers do not give what "
                    "the model itself gives; this model cannot be trained"
                )


def can_try_itself(model: nn.Module) -> bool:
    """Not where the library's own layers would take minutes: bf16 on a CPU without arithmetic."""
    first = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    return first.dtype is not torch.bfloat16 or multiplies_bfloat16(first.device)
