"""How a model is computed with: the fast way where it is right, else the library's own."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from effchal.config import ConfigError
from effchal.model.structure import OwnEnd, causal_lm, head


class Decoding(StrEnum):
    """How new tokens of rows go through the layers, the fastest first."""

    fused = "fused layers"
    rows = "the library's layers, all rows together"
    library = "the library's cache, row by row"
    reread = "no cache: each token reads its whole text again"


@dataclass(frozen=True)
class Route:
    """What was found right for one model. Each False costs time, never a result."""

    packed: bool = True  # examples of a training row share a forward pass
    fused: bool = True  # training may compute the layers by our own forward and backward pass
    plain_head: bool = True  # logits are the head's product, and nothing follows
    decoding: Decoding = Decoding.fused
    taps: bool = True  # states of single layers are there, for DoLa and SLED
    copied: bool = False  # whether a small copy showed it, beyond windows
    notes: tuple[str, ...] = field(default=())  # what is slower, and why

    def report(self) -> dict[str, Any]:
        """Plain values for plan.json, run.json and the server's list of models."""
        rows = "packed" if self.packed else "one example at a time"
        return asdict(self) | {
            "packed": rows,
            "decoding": self.decoding.value,
            "notes": list(self.notes),
        }


def logits_head(model: Any) -> Any:
    """Module of hidden states (N, D) -> logits (N, V), with all that the model does to them."""
    return head(model) if route_of(model).plain_head else OwnEnd(model)


def require_layer_states(model: Any) -> None:
    """Call before a decoding that compares layers.

    Raises:
        ConfigError: this model does not show the states of its layers.
    """
    if not route_of(model).taps:
        raise ConfigError(
            f"{type(causal_lm(model)).__name__} does not show the states of its layers, which "
            "DoLa and SLED compare; use decoding=greedy or decoding=sample"
        )


def route_of(model: Any) -> Route:
    """The route that was set; for a model that was not checked, the fastest one."""
    return getattr(causal_lm(model), "effchal_route", Route())


def set_route(model: Any, route: Route) -> None:
    causal_lm(model).effchal_route = route
