"""An export on the Hugging Face hub."""

import os
from pathlib import Path

from huggingface_hub import HfApi

from effchal.config import ConfigError

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class UploadError(RuntimeError):
    """The hub did not take the folder, which is still there."""


def require_online(repo: str) -> None:
    """Raises ConfigError where the environment forbids the hub."""
    for name in OFFLINE:
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise ConfigError(
                f"push_to_hub={repo} needs the hub, and {name} is set; unset it, or leave "
                "push_to_hub out and upload the folder later: hf upload"
            )


def upload(folder: Path, repo: str, private: bool) -> str:
    """Upload a folder to a model repo, which is made where there is none; its address.

    Raises:
        UploadError: the hub is not reached, or refuses.
    """
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload by effchal export"
        )
    except Exception as error:  # of an HTTP client that is another one in other versions
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UploadError(
            f"push_to_hub={repo}: {reason}; the folder is whole, upload it later: "
            f"hf upload {repo} {folder}"
        ) from error
    return str(made)
