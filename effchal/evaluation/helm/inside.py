"""What runs in HELM's own environment: preparing data before a model is loaded, and HELM's page.

<HELM's python> -P inside.py prepare <task.json>                adds "prepared" to that file
<HELM's python> -P inside.py page <arguments of helm-server>    on the loopback interface only

-P keeps this file's folder out of Python's search path. Nothing of effchal can be imported here.
"""

import difflib
import json
import os
import sys
from pathlib import Path


def refuse_downloads() -> None:
    """Make HELM fail where it would fetch a file: a given folder of data has to be complete."""
    import helm.common.general

    def only_look(source_url: str, target_path: str, *_, **__) -> None:
        if not os.path.exists(target_path):
            raise FileNotFoundError(
                f"scenario.path has no {Path(target_path).name}; HELM would fetch {source_url}"
            )

    # Before any scenario is imported: scenarios take the function by name.
    helm.common.general.ensure_file_downloaded = only_look


def prepare(path: Path) -> None:
    """Name HELM's runs of every entry, and have HELM read the data of each.

    The file has entries, model, local_path, output_path and offline (true: all data are in
    place). Adds prepared, a list of {entry, runs} or {entry, error, missing}; missing tells
    whether HELM lacks the data, or the entry altogether.
    """
    task = json.loads(path.read_text())
    if task["offline"]:
        refuse_downloads()
    from helm.benchmark.config_registry import (
        register_builtin_configs_from_helm_package,
        register_configs_from_directory,
    )
    from helm.benchmark.runner import set_benchmark_output_path

    register_builtin_configs_from_helm_package()
    register_configs_from_directory(task["local_path"])
    set_benchmark_output_path(task["output_path"])
    task["prepared"] = []
    for entry in task["entries"]:
        try:
            found = {"entry": entry, "runs": runs_of(entry, task)}
        except Exception as error:
            found = {"entry": entry, "error": f"{type(error).__name__}: {error}"}
            # A file, the hub or an address that is not there: all of them are such errors.
            found["missing"] = isinstance(error, (OSError, UnknownEntry))
        task["prepared"].append(found)
    path.write_text(json.dumps(task, indent=2) + "\n")


class UnknownEntry(ValueError):
    """HELM has no such entry."""


def runs_of(entry: str, task: dict) -> list[str]:
    """Names of HELM's runs of an entry, after it has read their data."""
    # The first is private API, checked with crfm-helm 0.5.16.
    from helm.benchmark.run_spec import _REGISTERED_RUN_SPEC_FUNCTIONS, get_run_spec_function
    from helm.benchmark.run_spec_factory import construct_run_specs
    from helm.benchmark.scenarios.scenario import (
        EVAL_SPLITS,
        create_scenario,
        get_scenario_cache_path,
    )
    from helm.common.object_spec import parse_object_spec

    name = entry.partition(":")[0]
    if get_run_spec_function(name) is None:
        near = difflib.get_close_matches(name, _REGISTERED_RUN_SPEC_FUNCTIONS, n=1, cutoff=0.0)[0]
        raise UnknownEntry(f"HELM knows no entry {name!r}; the nearest that it knows is {near!r}")
    entry = entry.removesuffix(":")
    joint = "," if ":" in entry else ":"
    specs = construct_run_specs(parse_object_spec(f"{entry}{joint}model={task['model']}"))
    for spec in specs:
        _ = spec.data_augmenter_spec.perturbations  # each reads its tables
        scenario = create_scenario(spec.scenario_spec)
        cache = get_scenario_cache_path(task["output_path"], scenario.name)
        instances = scenario.get_instances(cache)
        # HELM passes over a missing file without a word.
        if not any(instance.split in EVAL_SPLITS for instance in instances):
            raise FileNotFoundError("HELM finds no question of it in its data")
    return [spec.name for spec in specs]


def page() -> None:
    """helm-server on the loopback interface; by itself it listens on every interface."""
    import bottle
    from helm.benchmark import server

    listen = bottle.run
    bottle.run = lambda *arguments, **options: listen(*arguments, **options | {"host": "127.0.0.1"})
    server.main()


if __name__ == "__main__":
    command = sys.argv.pop(1)
    if command == "prepare":
        prepare(Path(sys.argv[1]))
    else:
        page()
