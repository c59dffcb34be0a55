"""The scenarios of scenario.entries, and what is missing of their data."""

import logging
from pathlib import Path

from effchal.config import Config, ConfigError
from effchal.evaluation.encoding import TokenizerWindow
from effchal.evaluation.scenarios.entries import load_scenario
from effchal.evaluation.scenarios.run_arguments import expanded
from effchal.evaluation.scenarios.types import MissingDataError, Scenario
from effchal.prompts.encoder import PromptEncoder

log = logging.getLogger("effchal.evaluate")


def load_scenarios(cfg: Config, encoder: PromptEncoder) -> tuple[list[Scenario], dict[str, str]]:
    """The scenarios of all entries, and by entry what is missing of the others' data.

    Raises:
        ConfigError: data are missing, unless scenario.skip_missing allows it; it names all that
            are missing.
    """
    path = None if cfg.scenario.path is None else Path(cfg.scenario.path)
    window, most = TokenizerWindow(encoder), cfg.scenario.max_instances
    found: list[Scenario] = []
    missing: dict[str, MissingDataError] = {}
    for entry in cfg.scenario.entries:
        try:
            found += [load_scenario(each, path, most, window) for each in expanded(entry)]
        except MissingDataError as error:
            missing[entry] = error
    if missing and ((not found and not cfg.scenario.data) or not cfg.scenario.skip_missing):
        raise missing_data(missing, len(cfg.scenario.entries))
    for entry, reason in missing.items():
        log.warning("left out: %s: %s", entry, reason.what)
    return found, {entry: reason.what for entry, reason in missing.items()}


def missing_data(missing: dict[str, MissingDataError], entries: int) -> ConfigError:
    """One error of several, each remedy once."""
    if entries == 1:
        (error,) = missing.values()
        return error
    lines = [f"{entry}: {error.what}" for entry, error in missing.items()]
    remedies = dict.fromkeys(error.remedy for error in missing.values())
    skip = "scenario.skip_missing=true goes on without them, and names them in the results"
    return ConfigError(
        "\n  ".join([f"no data for {len(missing)} of {entries} entries:", *lines, *remedies, skip])
    )
