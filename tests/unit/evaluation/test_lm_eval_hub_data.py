"""Which of lm-eval's tasks have data on the hub, read from the files of tasks alone."""

import socket

import huggingface_hub.constants as hub
import pytest
from support.configs import compose_config

from effchal.config import ConfigError
from effchal.evaluation.lm_eval.hub_data import OFFLINE, check_hub_data, out_of_reach, repositories

TASKS = {
    "swag/swag.yaml": "task: swag\ndataset_path: some/swag\ndataset_name: null\n",
    "arc/easy.yaml": "tag:\n  - arc\ntask: easy\ndataset_path: some/arc\n",
    "arc/hard.yaml": "include: easy.yaml\ntask: hard\n",
    "many/many.yaml": "group: many\ntask:\n  - part\naggregate_metric_list:\n  - metric: acc\n",
    "many/part.yaml": "group: part\ntask:\n  - part_tasks\n",
    "many/one.yaml": '"tag": "part_tasks"\n"include": "_template"\n"task": "one"\n',
    "many/_template": "dataset_path: some/many # a comment\noutput_type: multiple_choice\n",
    "local/local.yaml": "task: local\ndataset_path: json\n",
    "made/made.yaml": "task: made\ncustom_dataset: !function utils.made\n",
}


@pytest.fixture
def environment(tmp_path):
    for name, text in TASKS.items():
        path = tmp_path / "lib" / "python3" / "site-packages" / "lm_eval" / "tasks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def cfg_of(*tasks, **keys):
    typed = [f"lm_eval.{key}={value}" for key, value in keys.items()]
    return compose_config(["model=tiny", f"lm_eval.tasks=[{','.join(tasks)}]", *typed])


def test_data_sets_are_found_through_includes_groups_and_tags(environment):
    wanted = ["swag", "hard", "many", "one", "local", "made", "unknown", "arc*"]
    found = repositories(wanted, environment, set())
    assert found == {
        "swag": "some/swag",
        "hard": "some/arc",
        "many": "some/many",
        "one": "some/many",
    }
    assert repositories(["swag"], environment, {"swag"}) == {}


def test_all_tasks_without_data_are_told_while_the_hub_is_out_of_reach(
    environment, tmp_path, monkeypatch
):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))
    message = r"no data for swag \(some/swag\), many \(some/many\): .* and HF_HUB_OFFLINE is set"
    with pytest.raises(ConfigError, match=message):
        check_hub_data(cfg_of("swag", "local", "many"), environment)
    assert check_hub_data(cfg_of("local", "made"), environment) == OFFLINE
    (tmp_path / "cache" / "datasets--some--swag").mkdir(parents=True)
    assert check_hub_data(cfg_of("swag"), environment) == OFFLINE


def test_a_task_of_ones_own_wins_over_one_of_the_hub(environment, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "swag.yaml").write_text("task: swag\ndataset_path: json\n")
    cfg = cfg_of("swag", include_path=tmp_path / "own")
    assert check_hub_data(cfg, environment) == OFFLINE


def test_whether_the_hub_answers_is_tried(monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(hub, "ENDPOINT", address)
        assert out_of_reach() is None
    assert "127.0.0.1 cannot be reached" in out_of_reach()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    assert out_of_reach() is None
