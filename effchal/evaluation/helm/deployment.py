"""What HELM reads of us: the folder `prod_env`, which describes the model, and scenario data."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from effchal.config import Config, ConfigError
from effchal.model_source import ModelSource, load_source_tokenizer
from effchal.prompts.encoder import PromptEncoder, Turn

JOINT_TOKENS = 8  # that tokenizing template and prompt together may take more than apart
MIN_PROMPT_TOKENS = 64


def model_name(cfg: Config) -> str:
    """<organisation>/<model> for HELM.

    This is helm.name, or effchal/ with the name of the bundle's run or of the base model.
    """
    if cfg.helm.name is not None:
        return cfg.helm.name
    own = Path(cfg.model.name).name if cfg.bundle is None else cfg.name
    return "effchal/" + re.sub(r"[^\w.-]+", "-", own)


def max_sequence_length(cfg: Config, source: ModelSource) -> int:
    """Tokens of prompt and answer that HELM may count on; the prompt's template comes on top.

    Raises:
        ConfigError: fewer than MIN_PROMPT_TOKENS are left.
    """
    encoder = PromptEncoder(load_source_tokenizer(source), cfg.prompt)
    template = len(encoder.prompt_ids([Turn("user", "")])) + JOINT_TOKENS
    left = min(source.shape.max_positions, cfg.serve.max_prompt_tokens) - template
    if left < MIN_PROMPT_TOKENS:
        raise ConfigError(
            f"{left} tokens are left for HELM's prompts; raise serve.max_prompt_tokens"
        )
    return min(cfg.helm.max_sequence_length, left)


def write_deployment(folder: Path, cfg: Config, source: ModelSource, url: str) -> None:
    """Write `prod_env` for our server at `url`, for HELM's own HTTP client and tokenizer."""
    # do_cache: HELM keeps every answer at once, so a killed run does not ask again.
    at = {"base_url": url, "do_cache": True}
    revision = f" at {source.base.revision}" if source.base.revision is not None else ""
    write_prod_env(
        folder,
        name=model_name(cfg),
        description=f"{cfg.bundle or 'The plain base model'}; "
        f"base model: {source.base.name}{revision}; {cfg.decoding.method.value}",
        max_sequence_length=max_sequence_length(cfg, source),
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
    """Write HELM's three files about one model: YAML files, whose content is JSON."""
    organization, _, display_name = name.partition("/")
    metadata = {
        "name": name,
        "display_name": display_name,
        "description": description,
        "creator_organization_name": organization,
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
    """Link all files of `data` into `folder`, because HELM writes lock files next to them."""
    for file in data.rglob("*"):
        if file.is_file() and file.suffix != ".lock":
            link = folder / file.relative_to(data)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            try:
                link.symlink_to(file.resolve())
            except OSError:  # FAT has no links
                shutil.copyfile(file, link)
