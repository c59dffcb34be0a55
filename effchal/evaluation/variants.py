"""The decodings that one evaluation compares: what was asked for, and its controls."""

from dataclasses import dataclass, replace

from effchal.config import Config, ConfigError
from effchal.config.choices import DecodingMethod
from effchal.decoding.contrast import Contrast, Greedy
from effchal.decoding.layers import contrast_of
from effchal.model.load import ModelShape

BASELINE = "greedy"
# Knows no model: log V for each token of a given choice; by letter, the one with the longest text.
LONGEST = "longest answer"


@dataclass(frozen=True)
class Variant:
    """One way to get answers out of the same model."""

    name: str
    contrast: Contrast
    repetition_penalty: float = 1.0
    temperature: float | None = None  # None: the scenario's own
    top_p: float = 1.0


def variants_of(cfg: Config, shape: ModelShape) -> list[Variant]:
    """What to compare, the baseline first; names are unique.

    DoLa and SLED bring their controls: greedy, greedy with the same repetition penalty, and themselves without one.

    Raises:
        ConfigError: layers that the model does not have, or a sweep of them with nothing to contrast.
    """
    decoding, model = cfg.decoding, (shape.num_layers, shape.tied)
    penalty, controls = decoding.repetition_penalty, cfg.sweep.controls
    found: list[Variant] = []
    if cfg.sweep.premature_layers and decoding.method not in (
        DecodingMethod.dola,
        DecodingMethod.sled,
    ):
        raise ConfigError(
            "sweep.premature_layers needs decoding.method=dola or sled, e.g. decoding=dola_high"
        )
    if decoding.method in (DecodingMethod.dola, DecodingMethod.sled):
        asked = cfg.sweep.premature_layers or [decoding.premature_layers]
        for i, layers in enumerate(asked):
            key = (
                f"sweep.premature_layers[{i}]"
                if cfg.sweep.premature_layers
                else "decoding.premature_layers"
            )
            contrast = contrast_of(decoding, *model, key, layers)
            found += with_penalty(
                Variant(f"{decoding.method.value} {label(layers)}", contrast), penalty, controls
            )
        found = (
            with_penalty(Variant(BASELINE, Greedy()), penalty if controls else 1.0, True) + found
        )
    elif decoding.method is DecodingMethod.sample:
        found = [Variant("sample", Greedy(), penalty, decoding.temperature, decoding.top_p)]
    else:
        found = with_penalty(Variant(BASELINE, Greedy()), penalty, controls)
    return list({variant.name: variant for variant in found}.values())


def with_penalty(plain: Variant, penalty: float, keep_plain: bool) -> list[Variant]:
    """The variant with a repetition penalty, and where asked for without."""
    if penalty == 1.0:
        return [plain]
    penalised = replace(
        plain, name=f"{plain.name}, penalty {penalty:g}", repetition_penalty=penalty
    )
    return [plain, penalised] if keep_plain else [penalised]


def label(layers: object) -> str:
    return layers if isinstance(layers, str) else "+".join(map(str, layers))


def for_choices(variants: list[Variant]) -> dict[Contrast, str]:
    """Contrast -> name: the scores of given continuations know neither penalty nor temperature."""
    named: dict[Contrast, str] = {}
    for variant in variants:
        name = BASELINE if variant.contrast == Greedy() else variant.name.partition(", penalty")[0]
        named.setdefault(variant.contrast, name)
    return named
