"""Where a command writes: folders of its own, none left by a refusal; sweeps that go on."""

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.paths import ROOT

from effchal.config import ConfigError
from effchal.runs import new_folder, nothing_left_if_refused, run_lock

COMMAND = """
import sys
from effchal.cli.compose import entry_point
from effchal.config import ConfigError

@entry_point
def main(cfg, overrides, output_dir):
    print("got", cfg.lora.r, cfg.resume_from, output_dir)
    (output_dir / "mix.json").write_text("{}")
    if cfg.lora.r == 2:
        raise ConfigError("not 2")
    if cfg.lora.r == 3:
        sys.exit("error: three")
    if cfg.lora.r == 4:
        raise KeyError("four")
    if cfg.lora.r == 5:
        raise OSError(28, "No space left on device", "file")
    if cfg.lora.r == 6:
        sys.exit(143)
    (output_dir / "config.yaml").write_text("")

main()
"""


@pytest.fixture
def call(tmp_path):
    """Runs a command called train in tmp_path/cwd."""
    (tmp_path / "train.py").write_text(COMMAND)
    (tmp_path / "cwd").mkdir()

    def run(*arguments, cwd=tmp_path / "cwd", command="train"):
        if command != "train":
            (tmp_path / f"{command}.py").write_text(COMMAND)
        program = [sys.executable, str(tmp_path / f"{command}.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(program, capture_output=True, text=True, cwd=cwd, env=environment)

    return run


def test_no_two_claims_give_the_same_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_folder(tmp_path / "a" / "run"), range(40)))
    assert len(set(folders)) == 40
    assert {folder.name for folder in folders} == {"run"} | {f"run_{i}" for i in range(2, 41)}


@pytest.mark.integration
def test_two_commands_in_one_second_have_folders_of_their_own(call, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: call("name=x"), range(3)))
    assert [result.returncode for result in results] == [0, 0, 0]
    folders = {result.stdout.split()[-1] for result in results}
    assert len(folders) == 3
    assert len(list((tmp_path / "cwd" / "outputs" / "train").iterdir())) == 3


@pytest.mark.integration
@pytest.mark.parametrize("typed", [["lora.rank=8"], ["lora.r=0"], ["lora.r=2"], ["name=a=b"]])
def test_a_refused_command_leaves_no_folder(call, tmp_path, typed):
    result = call(*typed)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list((tmp_path / "cwd").iterdir()) == []


def refuse(folder, file=None, keep=False, lock=None):
    """What a command does that writes and is then refused."""
    with nothing_left_if_refused(folder, keep):
        folder.mkdir(exist_ok=True)
        if lock is not None:  # of another process that began at the same moment
            lock.enter_context(run_lock(folder))
        if file is not None:
            (folder / file).write_text("")
        raise ConfigError("no")


def test_a_refusal_empties_a_folder_that_was_empty(tmp_path):
    with pytest.raises(ConfigError):
        refuse(tmp_path / "new", "mix.json")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError):
        refuse(tmp_path, "mix.json", keep=True)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_removes_nothing_that_was_there_before(tmp_path):
    (tmp_path / "plan.json").write_text("")
    with pytest.raises(ConfigError):
        refuse(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_refusal_removes_nothing_of_another_process(tmp_path):
    with contextlib.ExitStack() as lock:
        with pytest.raises(ConfigError):
            refuse(tmp_path / "run", "theirs", lock=lock)
        assert (tmp_path / "run" / "theirs").exists()


@pytest.mark.integration
def test_a_folder_that_cannot_be_written_is_one_line(call, tmp_path):
    (tmp_path / "cwd" / "outputs").write_text("a file")
    result = call()
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "another output folder: hydra.run.dir=<folder>" in result.stderr


@pytest.mark.integration
def test_a_command_that_only_shows_goes_on_where_nothing_can_be_written(call, tmp_path):
    (tmp_path / "cwd" / "outputs").write_text("a file")
    result = call(command="check")
    assert result.returncode == 0, result.stderr
    assert "cannot write outputs/check/" in result.stderr
    folder = result.stdout.split()[-1]
    assert f"using {folder}\n" in result.stderr


@pytest.mark.integration
def test_a_full_disk_is_one_line_and_code_1(call):
    result = call("lora.r=5")
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot write file: No space left on device; make room")
    assert result.stderr.count("\n") == 1


@pytest.mark.integration
def test_a_sweep_goes_on_after_failures_and_tells_them_all(call, tmp_path):
    result = call("-m", "lora.r=1,2,3,4,5,0,7")
    assert result.returncode == 1
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("got")] == [
        *("1", "2", "3", "4", "5", "7")
    ]
    head, *told = result.stderr.rpartition("error: 5 jobs of the sweep failed; ")[2].splitlines()
    assert head == "the same command with hydra.sweep.dir=<its folder> does what is not done"
    for line, (number, message) in zip(
        told,
        [
            (2, "not 2"),
            (3, "three"),
            (4, "KeyError: 'four'"),
            (5, "cannot write file: No space left"),
            (0, "lora.r must be at least 1"),
        ],
        strict=True,
    ):
        assert f"(lora.r={number}): {message}" in line
    assert "Traceback" in result.stderr  # of the KeyError, which is ours
    sweep = next((tmp_path / "cwd" / "outputs" / "train").iterdir())
    jobs, kept = {"0", "2", "3", "4", "6"}, {"multirun.yaml", "sweep.json", ".jobs", ".lock"}
    assert {path.name for path in sweep.iterdir()} == jobs | kept


@pytest.mark.integration
def test_a_sweep_again_goes_on_with_the_jobs_that_were_begun(call, tmp_path):
    sweep = tmp_path / "sweep"
    call("-m", "lora.r=1,2", f"hydra.sweep.dir={sweep}")
    result = call("-m", "lora.r=1,8", f"hydra.sweep.dir={sweep}")
    got = [line for line in result.stdout.splitlines() if line.startswith("got")]
    # The job of lora.r=2 keeps its number.
    assert got == [f"got 1 {sweep}/0 {sweep}/0", f"got 8 None {sweep}/2"]


@pytest.mark.integration
def test_a_signal_ends_a_sweep(call):
    result = call("-m", "lora.r=6,1")
    assert result.returncode == 143
    assert "got 1" not in result.stdout


@pytest.mark.integration
def test_a_sweep_of_refusals_leaves_no_folder(call, tmp_path):
    assert call("-m", "lora.r=0,2").returncode == 1
    assert list((tmp_path / "cwd").iterdir()) == []
