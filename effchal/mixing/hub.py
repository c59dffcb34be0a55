"""Data sets of the Hugging Face hub: the commit that is meant, and its files on this machine."""

import re
from dataclasses import dataclass
from pathlib import Path

from effchal.config import DataSourceConfig
from effchal.mixing.readers import KINDS, DataError
from effchal.tracking.fetching import hub_bar
from effchal.tracking.terminal import progress

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Keys:
    """How messages name the keys of a source."""

    path: str
    others: str  # what stands before `.split`, `.subset` and `.revision`

    @classmethod
    def of_mix(cls, name: str) -> "Keys":
        """Of a source of a data mix."""
        return cls(f"data_mix.sources.{name}.path", f"data_mix.sources.{name}")


def commit_of(name: str, cfg: DataSourceConfig, keys: Keys | None = None) -> str:
    """The commit of a data set: the one given, or what the hub has for it now.

    Raises:
        DataError: no such data set, or the hub cannot be asked.
    """
    if cfg.revision is not None and COMMIT.fullmatch(cfg.revision):
        return cfg.revision
    import huggingface_hub

    try:
        commit = huggingface_hub.HfApi().dataset_info(cfg.path, revision=cfg.revision).sha
    except Exception as error:  # every transport of the hub raises its own
        raise DataError(_message(name, cfg, error, keys)) from error
    if commit is None:
        raise DataError(f"source {name}: the hub names no commit of {cfg.path}")
    return str(commit)


def download(
    name: str, cfg: DataSourceConfig, commit: str, keys: Keys | None = None
) -> tuple[Path, ...]:
    """The files of a data set at a commit, in the order of its rows.

    Raises:
        DataError: missing, gated or unreachable.
    """
    try:
        if cfg.file is not None:
            import huggingface_hub

            with progress(f"fetching {cfg.path}, {cfg.file}", unit="B") as advance:
                path = huggingface_hub.hf_hub_download(
                    cfg.path,
                    cfg.file,
                    repo_type="dataset",
                    revision=commit,
                    tqdm_class=hub_bar(advance),
                )
            return (Path(path),)
        import datasets

        # A cache per commit: without the hub, the client takes any commit that its cache has.
        cache = str(Path(datasets.config.HF_DATASETS_CACHE) / f"effchal-{commit}")
        with progress(f"fetching {cfg.path}"):
            table = datasets.load_dataset(
                cfg.path,
                cfg.subset,
                revision=commit,
                split=cfg.split,
                cache_dir=cache,
                keep_in_memory=False,  # for it is the files that are read
            )
    except ModuleNotFoundError as error:
        raise DataError(
            f"source {name}: a data set of the hub needs the package {error.name}: "
            'pip install "effchal[train]"'
        ) from error
    except Exception as error:  # every client and transport of the hub raises its own
        raise DataError(_message(name, cfg, error, keys)) from error
    return tuple(Path(file["filename"]) for file in table.cache_files)


def _message(name: str, cfg: DataSourceConfig, error: Exception, keys: Keys | None) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split())
    keys = keys or Keys.of_mix(name)
    if "GatedRepoError" in kinds or "gated" in text.lower() or " 401 " in text or " 403 " in text:
        reason = "is gated: accept its terms on the hub and set HF_TOKEN"
    elif kinds & {
        "RepositoryNotFoundError",
        "DatasetNotFoundError",
        "RevisionNotFoundError",
        "EntryNotFoundError",
    }:
        at = f" at revision {cfg.revision}" if cfg.revision else ""
        reason = f"is no file here, and not on the hub{at} (or is private: set HF_TOKEN)"
    elif "Config name is missing" in text:
        reason = f"has several tables: give {keys.others}.subset=<name>"
    elif cfg.revision is None:
        reason = (
            f"is no file here, and the hub cannot be asked for its newest commit "
            f"({type(error).__name__}): give {keys.others}.revision=<commit>"
        )
    else:
        reason = f"cannot be reached ({type(error).__name__})"
    return (
        f"source {name}: {cfg.path} {reason}. With the rows in a local file: "
        f"{keys.path}=<{KINDS}>. The hub said: {text[:300]}"
    )
