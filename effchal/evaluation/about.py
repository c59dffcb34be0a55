"""What a reader must know of a model that was scored: base model, adapter and prompt template."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from effchal.cli.compose import CONF_DIR
from effchal.config import ConfigError, PromptConfig, load_config
from effchal.config.choices import Template

NOT_RECORDED = "not recorded"
DIGITS = 8  # of a digest
LONGEST_TEMPLATE = 24  # characters that tell a template which has no name


@dataclass(frozen=True)
class About:
    """Fields stand as in comparison.json."""

    base: str = NOT_RECORDED  # base model with its commit, or with its fingerprint
    adapter: str = NOT_RECORDED  # digest of the bundle, or none
    template: str = NOT_RECORDED

    @classmethod
    def of(cls, folder: Path, record: dict[str, Any]) -> "About":
        """Of an evaluation or HELM run.

        Args:
            record: its results.json or scores.json.
        """
        model = record["model"]
        digest = model.get("manifest_sha256")
        adapter = f"adapter {digest[:DIGITS]}" if digest else "no adapter"
        return cls(base_of(model), adapter, template_of(folder))


def base_of(model: dict[str, Any]) -> str:
    name = str(model.get("base_model"))
    name = Path(name).name if Path(name).is_absolute() else name
    digest = model.get("revision") or model.get("fingerprint")
    return f"{name}@{digest[:DIGITS]}" if isinstance(digest, str) else name


def template_of(folder: Path) -> str:
    """Its name in conf/prompt; `tokenizer` and `auto`; or the beginning of a user's turn."""
    try:
        prompt = load_config(folder / "config.yaml").prompt
    except ConfigError:
        return NOT_RECORDED
    if prompt.template is not Template.own:
        return prompt.template.value
    names = {field.name for field in fields(PromptConfig)}
    for path in sorted((CONF_DIR / "prompt").glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if values.keys() <= names - {"template"} and PromptConfig(**values) == prompt:
            return path.stem
    return repr(prompt.user)[:LONGEST_TEMPLATE]
