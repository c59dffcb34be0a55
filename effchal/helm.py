"""Have HELM itself score a bundle or a base model.

scripts/helm.sh makes HELM's environment first, and then does this.
"""

import json
import logging
import shutil
import signal
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from effchal.cli import entry_point, overlay
from effchal.config import Config, ConfigError, load_config, save_config
from effchal.evaluation.helm.deployment import model_name, place_data, write_deployment
from effchal.evaluation.helm.processes import (
    HELM_LOG,
    HelmError,
    child,
    helm_environment,
    helm_program,
    inside,
    reach_loopback_directly,
    run_helm,
    server,
    tail,
)
from effchal.evaluation.helm.results import SUITE, error_of, read_run, run_folder, table
from effchal.model_source import (
    ModelSource,
    check_model_source,
    check_same,
    identity,
    inference_config,
)
from effchal.runs import git_commit, versions
from effchal.serving.ready import free_port, is_ready

log = logging.getLogger("effchal.helm")


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    run_dir = output_dir
    if cfg.resume_from is not None:
        run_dir = Path(cfg.resume_from)
        cfg = resumed(cfg, overrides, run_dir)
    elif (run_dir / "scores.json").is_file():
        raise ConfigError(f"{run_dir} holds a run already; go on with it by resume_from={run_dir}")
    else:
        cfg = inference_config(cfg, overrides, {"scenario", "serve", "helm", "name"})
    reach_loopback_directly()
    signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(128 + number)
    )  # with what was started stopped
    try:
        runs = run(cfg, run_dir)
        print(table(runs))
        if cfg.helm.page:
            show_page(cfg, run_dir)
    except HelmError as error:
        sys.exit(f"error: {error}\ngo on with: python -m effchal.helm resume_from={run_dir}")
    except KeyboardInterrupt:
        sys.exit(f"interrupted; go on with: python -m effchal.helm resume_from={run_dir}")
    failed = [f"{each['name']}: {each['error']}" for each in runs if each["status"] == "failed"]
    if failed:
        lines = "\n  ".join(failed)
        sys.exit(
            f"error: {len(failed)} of {len(runs)} runs failed; resume_from={run_dir} tries them again\n  {lines}"
        )


def resumed(cfg: Config, overrides: list[str], run_dir: Path) -> Config:
    """The config that run_dir was begun with; of helm.*, what cannot change a score may be typed anew.

    Raises:
        ConfigError: no such run, or a key that would change what HELM asks.
    """
    if not (run_dir / "scores.json").is_file():
        raise ConfigError(f"{run_dir} is no run of effchal.helm: it has no scores.json")
    before = load_config(run_dir / "config.yaml")
    cfg = overlay(before, cfg, overrides, {"resume_from", "helm"}, str(run_dir))
    for key in ("name", "max_sequence_length"):
        if getattr(cfg.helm, key) != getattr(before.helm, key):
            raise ConfigError(
                f"helm.{key} is frozen in {run_dir}/config.yaml: {getattr(before.helm, key)!r}"
            )
    cfg.resume_from = None
    return cfg


def run(cfg: Config, run_dir: Path) -> list[dict[str, Any]]:
    """Have HELM run, or go on with, every entry; one result a run, as in scores.json.

    Raises:
        ConfigError: whatever is wrong with environment, bundle, entries, data or helm.url, before a model is loaded.
    """
    subject = check(cfg)
    url = cfg.helm.url.rstrip("/") if cfg.helm.url else f"http://127.0.0.1:{free_port()}"
    model = identity(subject) | {"name": model_name(cfg), "helm": helm_version(cfg)}
    write_deployment(run_dir / "prod_env", cfg, subject, url)
    entries = begin(cfg, run_dir, model)
    runs = [{"entry": each["entry"], "name": name} for each in entries for name in each["runs"]]
    todo = [each for each in runs if read_run(run_folder(run_dir, each["name"])) is None]
    for each in todo:  # to HELM, what a kill left half written is complete
        shutil.rmtree(run_folder(run_dir, each["name"]), ignore_errors=True)
    if todo:
        log.info("%d of %d runs to do; HELM's log: %s", len(todo), len(runs), run_dir / HELM_LOG)
        asked = list(dict.fromkeys(each["entry"] for each in todo))
        with nullcontext() if cfg.helm.url else server(cfg, run_dir, url) as serving:
            run_helm(cfg, run_dir, asked, model["name"], serving)
        summarise(cfg, run_dir)
    helm_log = (run_dir / HELM_LOG).read_text(encoding="utf-8", errors="replace")
    for each in runs:
        scores = read_run(run_folder(run_dir, each["name"]))
        each |= (
            {"status": "failed", "error": error_of(helm_log, each["name"])}
            if scores is None
            else scores
        )
    failed = any(each["status"] == "failed" for each in runs)
    write_scores(
        run_dir, {"status": "failed" if failed else "finished", "model": model, "runs": runs}
    )
    log.info("scores: %s", run_dir / "scores.json")
    return runs


def check(cfg: Config) -> ModelSource:
    """The model, after all that can be seen to be wrong without running anything.

    Raises:
        ConfigError: it names the key.
    """
    if not cfg.scenario.entries:
        raise ConfigError(
            "scenario.entries is empty; give at least one, e.g. scenario.entries=[gsm]"
        )
    if cfg.scenario.path is not None and not Path(cfg.scenario.path).is_dir():
        raise ConfigError(f"scenario.path: no folder {cfg.scenario.path} (from {Path.cwd()})")
    if not Path(helm_program(cfg, "helm-run")).is_file():
        where = f"helm.environment={cfg.helm.environment}"
        raise ConfigError(
            f"{where} has no bin/helm-run (from {Path.cwd()}); bash scripts/helm.sh makes .venv-helm"
        )
    if cfg.helm.threads > cfg.serve.max_waiting:
        limit = cfg.serve.max_waiting
        raise ConfigError(
            f"helm.threads={cfg.helm.threads} is more than serve.max_waiting={limit}; raise that, too"
        )
    if cfg.helm.url is not None and not is_ready(cfg.helm.url.rstrip("/")):
        raise ConfigError(
            f"helm.url={cfg.helm.url}: GET /ready is not answered with 200; is the server up?"
        )
    return check_model_source(cfg)


def helm_version(cfg: Config) -> str:
    found = Path(cfg.helm.environment).glob("lib/python*/site-packages/crfm_helm-*.dist-info")
    return next(
        (path.name.removesuffix(".dist-info").partition("-")[2] for path in found), "unknown"
    )


def begin(cfg: Config, run_dir: Path, model: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries with the names of HELM's runs, after HELM has read their data; a resumed run has them already.

    Raises:
        ConfigError: an entry that HELM does not know or has no data for; or another model than before.
    """
    scores, task = run_dir / "scores.json", run_dir / "prepared.json"
    if scores.is_file():
        check_same(json.loads(scores.read_text())["model"], model, run_dir)
    else:
        wanted = {
            "entries": cfg.scenario.entries,
            "model": model["name"],
            "offline": cfg.scenario.path is not None,
        }
        wanted |= {"output_path": str(run_dir), "local_path": str(run_dir / "prod_env")}
        task.write_text(json.dumps(wanted))
        if cfg.scenario.path is not None:
            place_data(Path(cfg.scenario.path), run_dir / "scenarios")
        with inside(cfg, run_dir, "prepare", str(task)) as process:
            if process.wait() != 0:
                raise ConfigError(
                    f"HELM does not start; the end of its log:\n{tail(run_dir / HELM_LOG)}"
                )
    entries = json.loads(task.read_text())["prepared"]
    wrong = [
        f"scenario.entries has {each['entry']}: {each['error']}"
        for each in entries
        if "error" in each
    ]
    if wrong:
        raise ConfigError("\n  ".join(wrong))
    save_config(cfg, run_dir / "config.yaml")
    write_scores(run_dir, {"status": "running", "model": model})
    return entries


def summarise(cfg: Config, run_dir: Path) -> None:
    """Make what HELM's page shows."""
    command = [helm_program(cfg, "helm-summarize"), "--suite", SUITE, "--output-path", str(run_dir)]
    command += ["--local-path", str(run_dir / "prod_env")]
    with child(command, run_dir / HELM_LOG, signal.SIGKILL, env=helm_environment(cfg)) as process:
        if process.wait() != 0:
            log.warning(
                "helm-summarize failed, so HELM's page lacks what is new; see %s",
                run_dir / HELM_LOG,
            )


def write_scores(run_dir: Path, scores: dict[str, Any]) -> None:
    parts = run_dir / "scores.tmp"
    parts.write_text(
        json.dumps(scores | {"versions": versions(), "git_commit": git_commit()}, indent=2) + "\n"
    )
    parts.replace(run_dir / "scores.json")


def show_page(cfg: Config, run_dir: Path) -> None:
    """helm-server, until Ctrl-C or until it ends."""
    port = free_port()
    options = ["--suite", SUITE, "--output-path", str(run_dir), "--port", str(port)]
    with suppress(KeyboardInterrupt), inside(cfg, run_dir, "page", *options) as process:
        print(f"HELM's page: http://127.0.0.1:{port}/ (Ctrl-C ends it)", flush=True)
        process.wait()
        raise HelmError(f"helm-server ended; the end of its log:\n{tail(run_dir / HELM_LOG)}")


if __name__ == "__main__":
    main()
