"""A HELM run: HELM itself asks every entry; a killed run can go on in its folder."""

import json
import logging
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from effchal.cli.compose import overlay
from effchal.cli.several_models import resumed_bundle
from effchal.config import Config, ConfigError, load_config, save_config
from effchal.evaluation.helm.deployment import model_name, place_data, write_deployment
from effchal.evaluation.helm.processes import (
    HELM_LOG,
    HelmError,
    helm_child,
    helm_program,
    inside,
    output_options,
    run_helm,
    server,
    tail,
)
from effchal.evaluation.helm.results import SUITE, HelmRun, error_of, read_run, run_folder
from effchal.evaluation.helm.watch import watched
from effchal.evaluation.scenarios.entries import KNOWN, parse_entry
from effchal.evaluation.scenarios.needs import needed_files
from effchal.evaluation.scenarios.types import ScenarioError
from effchal.model_source import ModelSource, check_model_source, check_same, identity
from effchal.runs import git_commit, read_record, versions, write_atomic
from effchal.serving.ready import free_port, is_ready
from effchal.tracking.terminal import progress

log = logging.getLogger("effchal.helm")


def resumed(cfg: Config, overrides: list[str], run_dir: Path) -> Config:
    """The config that run_dir began with, and typed keys of helm.* that change no score.

    Raises:
        ConfigError: no such run, or a key that would change what HELM asks.
    """
    if not (run_dir / "scores.json").is_file():
        raise ConfigError(f"{run_dir} is no run of effchal helm: it has no scores.json")
    before = load_config(run_dir / "config.yaml")
    may_change = {"resume_from", "helm", "bundle", "base_model", "scenario.path"}
    may_change |= {"scenario.skip_missing"}
    cfg = overlay(before, cfg, overrides, may_change, str(run_dir))
    for key in ("name", "max_sequence_length"):
        if getattr(cfg.helm, key) != getattr(before.helm, key):
            raise ConfigError(
                f"helm.{key} is frozen in {run_dir}/config.yaml: {getattr(before.helm, key)!r}"
            )
    cfg.resume_from, cfg.bundle = None, resumed_bundle(cfg.bundle)
    return cfg


def run(cfg: Config, run_dir: Path) -> list[HelmRun]:
    """Have HELM run, or go on with, every entry.

    Returns:
        the runs, as in scores.json.

    Raises:
        ConfigError: a bad environment, bundle, entry, data or helm.url; before a model is loaded.
        HelmError: the server ended while HELM asked.
    """
    source = check(cfg)
    url = cfg.helm.url.rstrip("/") if cfg.helm.url else f"http://127.0.0.1:{free_port()}"
    model = identity(source) | {"name": model_name(cfg), "helm": helm_version(cfg)}
    write_deployment(run_dir / "prod_env", cfg, source, url)
    runs = begin(cfg, run_dir, model)
    todo = [each for each in runs if read_run(run_folder(run_dir, each.name)) is None]
    for each in todo:  # HELM takes what a kill left half written for complete
        shutil.rmtree(run_folder(run_dir, each.name), ignore_errors=True)
    if todo:
        log.info("%d of %d runs to do; HELM's log: %s", len(todo), len(runs), run_dir / HELM_LOG)
        entries = list(dict.fromkeys(each.entry for each in todo))
        with ExitStack() as stack:
            with progress("starting the server"):
                serving = None if cfg.helm.url else stack.enter_context(server(cfg, run_dir, url))
            with watched(run_dir, todo, ours=serving is not None):
                run_helm(cfg, run_dir, entries, model["name"], serving)
        summarise_for_page(cfg, run_dir)
    helm_log = (run_dir / HELM_LOG).read_text(encoding="utf-8", errors="replace")
    for each in runs:
        each.score = read_run(run_folder(run_dir, each.name))
        each.error = error_of(helm_log, each.name) if each.score is None else None
    status = "failed" if any(each.score is None for each in runs) else "finished"
    scores = {"status": status, "model": model, "runs": [each.to_dict() for each in runs]}
    prepared = json.loads((run_dir / "prepared.json").read_text())["prepared"]
    write_scores(run_dir, scores | left_out(prepared))
    log.info("scores: %s", run_dir / "scores.json")
    return runs


def check(cfg: Config) -> ModelSource:
    """The model, after every check that needs no process.

    Raises:
        ConfigError: it names the key.
    """
    limit = cfg.serve.max_waiting
    if not cfg.scenario.entries:
        raise ConfigError(
            "scenario.entries is empty; give at least one, e.g. scenario.entries=[gsm]"
        )
    if cfg.scenario.data:
        raise ConfigError(
            "scenario.data: HELM asks its own entries alone; effchal evaluate asks a file of yours"
        )
    if cfg.scenario.path is not None and not Path(cfg.scenario.path).is_dir():
        raise ConfigError(f"scenario.path: no folder {cfg.scenario.path} (from {Path.cwd()})")
    if not Path(helm_program(cfg, "helm-run")).is_file():
        raise ConfigError(
            f"helm.environment={cfg.helm.environment} has no bin/helm-run (from {Path.cwd()}); "
            "bash scripts/helm.sh makes .venv-helm"
        )
    if cfg.helm.threads > limit:
        raise ConfigError(
            f"helm.threads={cfg.helm.threads} is more than serve.max_waiting={limit}; "
            "raise that, too"
        )
    if cfg.helm.url is not None and not is_ready(cfg.helm.url.rstrip("/")):
        raise ConfigError(
            f"helm.url={cfg.helm.url}: GET /ready is not answered with 200; is the server up?"
        )
    return check_model_source(cfg)


def helm_version(cfg: Config) -> str:
    found = Path(cfg.helm.environment).glob("lib/python*/site-packages/crfm_helm-*.dist-info")
    versions = [path.name.removesuffix(".dist-info").partition("-")[2] for path in found]
    return versions[0] if versions else "unknown"


def begin(cfg: Config, run_dir: Path, model: dict[str, Any]) -> list[HelmRun]:
    """HELM's runs of all entries. In a new folder, HELM reads the data of each first.

    Raises:
        ConfigError: an entry that HELM does not know or has no data for, or another model
            than the folder began with.
    """
    scores, task = run_dir / "scores.json", run_dir / "prepared.json"
    if scores.is_file():
        check_same(read_record(scores)["model"], model, run_dir)
    else:
        prepare(cfg, run_dir, task, model["name"])
    content = json.loads(task.read_text())
    entries = content["prepared"]
    mark_missing(cfg, entries)
    write_atomic(task, json.dumps(content, indent=2) + "\n")
    check_prepared(cfg, entries)
    save_config(cfg, run_dir / "config.yaml")
    write_scores(run_dir, {"status": "running", "model": model} | left_out(entries))
    to_run = [each for each in entries if "error" not in each]
    return [HelmRun(each["entry"], name) for each in to_run for name in each["runs"]]


def mark_missing(cfg: Config, entries: list[dict[str, Any]]) -> None:
    """Mark entries that lack a file which HELM passes over, such as the test questions of MMLU."""
    for each in entries:
        if cfg.scenario.path is None or "error" in each:
            continue
        with suppress(ScenarioError):  # an entry or an argument that HELM alone knows
            name, args = parse_entry(each["entry"])
            files = [] if name == "math" else needed_files(each["entry"], name, args)
            absent = [file for file in files if not Path(cfg.scenario.path, file).is_file()]
            if absent:
                each |= {"error": f"scenario.path has no {', '.join(absent)}", "missing": True}


def check_prepared(cfg: Config, entries: list[dict[str, Any]]) -> None:
    """Raises ConfigError if HELM cannot run an entry, unless scenario.skip_missing allows it."""
    wrong = [each for each in entries if "error" in each]
    may_skip = cfg.scenario.skip_missing and len(wrong) < len(entries)
    refused = [each for each in wrong if not (may_skip and can_skip(each))]
    if refused:
        lines = [f"scenario.entries has {each['entry']}: {each['error']}" for each in refused]
        if not may_skip and len(entries) > 1 and all(map(can_skip, refused)):
            lines.append("scenario.skip_missing=true goes on without them")
        raise ConfigError("\n  ".join(lines))
    for each in wrong:
        log.warning("left out: %s: %s", each["entry"], each["error"])


def can_skip(prepared: dict[str, Any]) -> bool:
    """Whether HELM lacks data of an entry, or an entry that effchal evaluate has."""
    name = prepared["entry"].partition(":")[0]
    is_known = name in KNOWN or "knows no entry" not in prepared["error"]
    return is_known and bool(prepared.get("missing"))


def left_out(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What scores.json says of entries that were left out."""
    missing = {each["entry"]: each["error"] for each in entries if "error" in each}
    return {"missing": missing} if missing else {}


def prepare(cfg: Config, run_dir: Path, task: Path, name: str) -> None:
    """Have HELM name its runs and read their data; inside.py adds both to the file `task`.

    Raises:
        ConfigError: HELM does not start.
    """
    wanted = {
        "entries": cfg.scenario.entries,
        "model": name,
        "offline": cfg.scenario.path is not None,
        "output_path": str(run_dir),
        "local_path": str(run_dir / "prod_env"),
    }
    task.write_text(json.dumps(wanted))
    if cfg.scenario.path is not None:
        data = Path(cfg.scenario.path)
        place_data(data, run_dir / "scenarios")
        # HELM looks for its tables beside the data; a folder of effchal fetch has them inside.
        for folder in (data.parent / "perturbations", data / "perturbations"):
            place_data(folder, run_dir / "perturbations")
    with progress("HELM reads its data"), inside(cfg, run_dir, "prepare", str(task)) as process:
        if process.wait() != 0:
            end = tail(run_dir / HELM_LOG)
            raise ConfigError(f"HELM does not start; the end of its log:\n{end}")


def summarise_for_page(cfg: Config, run_dir: Path) -> None:
    """Write what HELM's page shows."""
    command = [helm_program(cfg, "helm-summarize"), *output_options(run_dir)]
    with progress("HELM summarises"), helm_child(cfg, run_dir, command) as process:
        if process.wait() != 0:
            log.warning("helm-summarize failed: HELM's page is not new; see %s", run_dir / HELM_LOG)


def write_scores(run_dir: Path, scores: dict[str, Any]) -> None:
    made_by = {"versions": versions(), "git_commit": git_commit()}
    write_atomic(run_dir / "scores.json", json.dumps(scores | made_by, indent=2) + "\n")


def show_page(cfg: Config, run_dir: Path) -> None:
    """Run helm-server until Ctrl-C.

    Raises:
        HelmError: it ended by itself.
    """
    port = free_port()
    options = ["--suite", SUITE, "--output-path", str(run_dir), "--port", str(port)]
    with suppress(KeyboardInterrupt), inside(cfg, run_dir, "page", *options) as process:
        print(f"HELM's page: http://127.0.0.1:{port}/ (Ctrl-C ends it)", flush=True)
        process.wait()
        raise HelmError(f"helm-server ended; the end of its log:\n{tail(run_dir / HELM_LOG)}")
