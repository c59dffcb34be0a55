"""Whether the data of lm-eval's own tasks can be had, told before lm-eval is started.

lm-eval itself says so after half a minute: it reads all of its tasks, and then tries the hub for
long. Here only the lines that matter are read, so what is not found here is left to lm-eval.
"""

import os
import re
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from effchal.config import Config, ConfigError

PATIENCE_S = 3  # for the hub to answer
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
LINE = r"^\s*[\"']?(?:{keys})[\"']?\s*:\s*[\"']?([^\s\"'#]+)[\"']?\s*(?:#.*)?$"
NAME = re.compile(LINE.format(keys="task|group|tag"), re.MULTILINE)
DATA_SET = re.compile(LINE.format(keys="dataset_path"), re.MULTILINE)
INCLUDED = re.compile(LINE.format(keys="include"), re.MULTILINE)
CHILD = re.compile(r"^\s*-\s*(?:task:\s*)?[\"']?([\w.-]+)[\"']?\s*$", re.MULTILINE)
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # else a builder such as json, or a folder


def check_hub_data(cfg: Config, environment: Path) -> dict[str, str]:
    """Find tasks whose data are on the hub, while it is out of reach and they are not cached.

    Args:
        environment: lm-eval's.

    Returns:
        variables for lm-eval's process, which is not to wait for a hub that is out of reach.

    Raises:
        ConfigError: there are such tasks; it names them all.
    """
    why = out_of_reach()
    if why is None:
        return {}
    missing = {
        name: repository
        for name, repository in repositories(cfg.lm_eval.tasks, environment, own_names(cfg)).items()
        if not is_cached(repository)
    }
    if not missing:
        return OFFLINE
    told = ", ".join(f"{name} ({repository})" for name, repository in missing.items())
    raise ConfigError(
        f"lm_eval.tasks: no data for {told}: they are on the Hugging Face hub, and {why}; fetch "
        "them once where there is a network, or write a task over files of your own"
    )


def out_of_reach() -> str | None:
    """Why the hub cannot be asked; None if it can, or if only a proxy knows."""
    import huggingface_hub.constants as hub

    if hub.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    proxies = ("https_proxy", "all_proxy")
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in proxies):
        return None
    host = urlsplit(hub.ENDPOINT).hostname or hub.ENDPOINT
    port = urlsplit(hub.ENDPOINT).port or 443
    found: list[OSError | None] = []

    def connect() -> None:  # in a thread, since a name server has no time limit
        try:
            socket.create_connection((host, port), timeout=PATIENCE_S).close()
            found.append(None)
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if not found:
        return f"{host} does not answer"
    return None if found[0] is None else f"{host} cannot be reached ({found[0]})"


def own_names(cfg: Config) -> set[str]:
    """Names of tasks in lm_eval.include_path, which win over lm-eval's."""
    folder = cfg.lm_eval.include_path
    return set() if folder is None else set(files_by_name(Path(folder)))


def repositories(tasks: Iterable[str], environment: Path, own: set[str]) -> dict[str, str]:
    """By task, its data set on the hub; of a group, that of the first task in it.

    Tasks of which no file is found, and patterns, are not in it.
    """
    (folder,) = environment.glob("lib/python*/site-packages/lm_eval/tasks")
    files = files_by_name(folder)
    named = {name: files[name] for name in tasks if name in files and name not in own}
    found = {name: data_set_of(path, files) for name, path in named.items()}
    return {name: repository for name, repository in found.items() if repository is not None}


def files_by_name(folder: Path) -> dict[str, Path]:
    """A file of each task, group and tag; where several name one, that with the shortest path."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.yaml"), key=lambda each: (len(each.parts), str(each))):
        for name in NAME.findall(read(path)):
            found.setdefault(name, path)
    return found


def data_set_of(path: Path, files: dict[str, Path], depth: int = 8) -> str | None:
    """The hub's data set in a task's file, or in one that it includes or that stands in a group."""
    text = read(path)
    if line := DATA_SET.search(text):
        is_on_hub = REPOSITORY.fullmatch(line[1]) and not Path(line[1]).expanduser().exists()
        return line[1] if is_on_hub else None
    included = INCLUDED.search(text)
    others = [path.parent / included[1]] if included else []
    others += [files[name] for name in CHILD.findall(text) if name in files][:1]
    for other in others:
        if depth and other != path and other.is_file():
            return data_set_of(other, files, depth - 1)
    return None


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def is_cached(repository: str) -> bool:
    """Whether one of the two caches has something of a data set."""
    import huggingface_hub.constants as hub

    of_datasets = os.environ.get("HF_DATASETS_CACHE") or Path(hub.HF_HOME) / "datasets"
    places = (
        Path(hub.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}",
        Path(of_datasets) / repository.replace("/", "___"),
    )
    return any(place.is_dir() for place in places)
