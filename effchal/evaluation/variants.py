"""The decodings that one evaluation compares: what was asked for, and its controls."""

import logging
from dataclasses import dataclass, replace

from effchal.config import Config, ConfigError
from effchal.config.choices import DecodingMethod
from effchal.decoding.contrast import Contrast, Greedy
from effchal.decoding.layers import contrast_of
from effchal.evaluation.results import BASELINE
from effchal.evaluation.seeds import SEEDED
from effchal.model.load import ModelShape

log = logging.getLogger("effchal.evaluate")
NO_CONTRAST: Contrast = Greedy()  # the mature layer alone


@dataclass(frozen=True)
class Variant:
    """One way to decode answers from the same model."""

    name: str
    contrast: Contrast = NO_CONTRAST
    repetition_penalty: float = 1.0
    temperature: float | None = None  # None: the scenario's own
    top_p: float = 1.0
    seed: int | None = None  # one of evaluate.seeds

    @property
    def contrasts_layers(self) -> bool:
        return bool(self.contrast.layers)


def variants_of(cfg: Config, shape: ModelShape) -> list[Variant]:
    """What to compare, the baseline first; names are unique.

    DoLa and SLED bring their controls: greedy, greedy with the same repetition penalty, and
    themselves without one.

    Raises:
        ConfigError: layers that the model does not have, or a sweep of them with nothing to
            contrast.
    """
    decoding, sweep = cfg.decoding, cfg.sweep
    penalty = decoding.repetition_penalty
    baseline = Variant(BASELINE)
    seeds = cfg.evaluate.seeds
    if seeds and decoding.method is not DecodingMethod.sample:  # beside sample in one sweep
        log.info("evaluate.seeds is of decoding=sample; %s answers once", decoding.method.value)
    if decoding.method.contrasts_layers:
        found = with_penalty(baseline, penalty if sweep.controls else 1.0, keep_plain=True)
        for i, layers in enumerate(sweep.premature_layers or [decoding.premature_layers]):
            key = f"sweep.premature_layers[{i}]"
            key = key if sweep.premature_layers else "decoding.premature_layers"
            contrast = contrast_of(decoding, shape.num_layers, shape.tied, key, layers)
            contrasting = Variant(f"{decoding.method.value} {layers_label(layers)}", contrast)
            found += with_penalty(contrasting, penalty, sweep.controls)
    elif sweep.premature_layers:
        raise ConfigError(
            "sweep.premature_layers needs decoding.method=dola or sled, e.g. decoding=dola_high"
        )
    elif decoding.method is DecodingMethod.sample:
        plain = Variant("sample", NO_CONTRAST, penalty, decoding.temperature, decoding.top_p)
        found = [replace(plain, name=f"{SEEDED}{seed}", seed=seed) for seed in seeds] or [plain]
    else:
        found = with_penalty(baseline, penalty, sweep.controls)
    return list({variant.name: variant for variant in found}.values())


def with_penalty(plain: Variant, penalty: float, keep_plain: bool) -> list[Variant]:
    """The variant with a repetition penalty, and without one too if asked for."""
    if penalty == 1.0:
        return [plain]
    name = f"{plain.name}, penalty {penalty:g}"
    penalised = replace(plain, name=name, repetition_penalty=penalty)
    return [plain, penalised] if keep_plain else [penalised]


def layers_label(layers: str | list[int]) -> str:
    return layers if isinstance(layers, str) else "+".join(map(str, layers))


def contrasts_of(variants: list[Variant]) -> dict[Contrast, str]:
    """Names by contrast: scores of given continuations depend on no penalty or temperature."""
    named: dict[Contrast, str] = {}
    for variant in variants:
        plain_name = variant.name.partition(", penalty")[0]
        name = plain_name if variant.contrasts_layers else BASELINE
        named.setdefault(variant.contrast, name)
    return named
