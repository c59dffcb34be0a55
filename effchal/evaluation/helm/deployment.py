"""What HELM finds: `prod_env`, with a model's name, where it answers and how much it takes; and scenario data."""

import json
import re
from pathlib import Path
from typing import Any

from effchal.config import Config, ConfigError
from effchal.model_source import ModelSource, load_source_tokenizer
from effchal.prompts import PromptEncoder, Turn

JOINT_TOKENS = 8  # more than a template's tokens alone, where template and prompt meet


def model_name(cfg: Config) -> str:
    """<organisation>/<model>: helm.name, or effchal/ and the name of the bundle's run or of the base model."""
    if cfg.helm.name is not None:
        return cfg.helm.name
    own = Path(cfg.model.name).name if cfg.bundle is None else cfg.name
    return "effchal/" + re.sub(r"[^\w.-]+", "-", own)


def max_sequence_length(cfg: Config, subject: ModelSource) -> int:
    """Tokens of prompt and answer that HELM may count on, the prompt's template not among them.

    Raises:
        ConfigError: the model takes hardly any.
    """
    encoder = PromptEncoder(load_source_tokenizer(subject), cfg.prompt)
    around = len(encoder.prompt_ids([Turn("user", "")])) + JOINT_TOKENS
    room = min(subject.shape.max_positions, cfg.serve.max_prompt_tokens) - around
    if room < 64:
        raise ConfigError(
            f"{room} tokens are left for HELM's prompts; raise serve.max_prompt_tokens"
        )
    return min(cfg.helm.max_sequence_length, room)


def write_deployment(folder: Path, cfg: Config, subject: ModelSource, url: str) -> None:
    """Write `prod_env` for our server at `url`, to be asked by HELM's own HTTP client and tokenizer."""
    at = {
        "base_url": url,
        "do_cache": True,
    }  # every answer is kept at once, so that a killed run goes on
    base = (
        subject.base.name
        if subject.base.revision is None
        else f"{subject.base.name} at {subject.base.revision}"
    )
    write_prod_env(
        folder,
        name=model_name(cfg),
        description=f"{cfg.bundle or 'The plain base model'}; base model: {base}; {cfg.decoding.method.value}",
        max_sequence_length=max_sequence_length(cfg, subject),
        client={
            "class_name": "helm.clients.http_model_client.HTTPModelClient",
            "args": at | {"timeout": cfg.helm.timeout_s},
        },
        tokenizer={
            "class_name": "helm.tokenizers.http_model_tokenizer.HTTPModelTokenizer",
            "args": at,
        },
        end_of_text="<|endoftext|>",  # this and the tags are those of HELM's own neurips/local
    )


def write_prod_env(
    folder: Path,
    name: str,
    description: str,
    max_sequence_length: int,
    client: dict[str, Any],
    tokenizer: dict[str, Any],
    end_of_text: str,
) -> None:
    """Write HELM's three files about one model. They are YAML, of which JSON is a part."""
    metadata = {
        "name": name,
        "display_name": name.partition("/")[2],
        "description": description,
        "creator_organization_name": name.partition("/")[0],
        "access": "open",
        "release_date": None,
        "tags": ["TEXT_MODEL_TAG", "FULL_FUNCTIONALITY_TEXT_MODEL_TAG"],
    }
    deployment = {
        "name": name,
        "model_name": name,
        "tokenizer_name": name,
        "max_sequence_length": max_sequence_length,
        "client_spec": client,
    }
    tokenizer_config = {
        "name": name,
        "tokenizer_spec": tokenizer,
        "end_of_text_token": end_of_text,
        "prefix_token": end_of_text,
    }
    folder.mkdir(exist_ok=True)
    files = {
        "model_deployments": {"model_deployments": [deployment]},
        "model_metadata": {"models": [metadata]},
        "tokenizer_configs": {"tokenizer_configs": [tokenizer_config]},
    }
    for file, content in files.items():
        (folder / f"{file}.yaml").write_text(json.dumps(content, indent=2) + "\n")


def place_data(data: Path, folder: Path) -> None:
    """Links to all files of `data` in folders of our own, since HELM writes lock files beside what it reads."""
    for file in data.rglob("*"):
        if file.is_file() and file.suffix != ".lock":
            link = folder / file.relative_to(data)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
