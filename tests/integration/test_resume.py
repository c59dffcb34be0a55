"""What a run needs when it goes on, and what it does where a disk or a file system refuses."""

import json
import os
import re
import shutil
import subprocess

import pytest
import torch
from support.paths import ROOT
from support.training_runs import (
    TINY,
    Stop,
    adapter,
    record,
    run,
    same_weights,
    start,
    start_fresh,
    wait_for_checkpoint,
)

from effchal.bundle import check_bundle
from effchal.config import Config, ConfigError, load_config
from effchal.config.choices import BundleOf
from effchal.mixing.locate import BUILTIN_DIR
from effchal.model.tiny import tiny_folder
from effchal.planning.training_run import nothing_to_do, open_run
from effchal.runs import checkpoints
from effchal.training import build, loop, saving, validation


def resume(folder, *typed):
    """What `effchal train <folder> <typed>` trains with, up to the first step."""
    from effchal.cli.arguments import hydra_arguments
    from effchal.cli.compose import compose_config

    *words, _ = hydra_arguments("train", [str(folder), *typed])
    return open_run(compose_config(words), words, folder)


def test_a_base_model_at_a_new_place_is_found_by_its_fingerprint(tiny_cfg, tmp_path):
    old, new = tmp_path / "old place", tmp_path / "new place"
    shutil.copytree(tiny_folder(), old)
    tiny_cfg.model.name = str(old)
    run(tiny_cfg, tmp_path / "whole")
    run(tiny_cfg, tmp_path / "run", Stop(after_steps=3))
    old.rename(new)
    with pytest.raises(ConfigError, match=r"base model of .*run is not here.*base_model=<folder>"):
        resume(tmp_path / "run")
    cfg, folder = resume(tmp_path / "run", f"base_model={new}")
    assert run(cfg, folder) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    assert load_config(folder / "config.yaml").model.name == str(new)


def test_another_base_model_at_a_new_place_is_refused(tiny_cfg, tmp_path):
    run(tiny_cfg, tmp_path / "run", Stop(after_steps=3))
    other = shutil.copytree(tiny_folder(), tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    cfg, folder = resume(tmp_path / "run", f"base_model={other}")
    with pytest.raises(ConfigError, match=r"other holds another model .*give base_model=<folder>"):
        run(cfg, folder)


def test_a_local_copy_of_a_model_of_the_hub_cannot_be_proved_the_same(tiny_cfg, tmp_path):
    run(tiny_cfg, tmp_path / "run", Stop(after_steps=3))
    newest = checkpoints(tmp_path / "run" / "checkpoint")[0]
    content = torch.load(newest, weights_only=True)
    content["state"]["base_model"] = None  # as a hub id has it
    torch.save(content, newest)
    with pytest.raises(ConfigError, match="cannot be proved the same; leave base_model out"):
        run(tiny_cfg, tmp_path / "run")


def test_data_at_a_new_place_are_found_by_their_digest(tiny_cfg, tmp_path):
    rows, moved = tmp_path / "rows.jsonl", tmp_path / "it's, = moved.jsonl"
    shutil.copy(BUILTIN_DIR / "instructions.jsonl", rows)
    tiny_cfg.data_mix.sources = {"mine": tiny_cfg.data_mix.sources["tasks"]}
    tiny_cfg.data_mix.sources["mine"].path = str(rows)
    run(tiny_cfg, tmp_path / "whole")
    run(tiny_cfg, tmp_path / "run", Stop(after_steps=3))
    rows.rename(moved)
    cfg, folder = resume(tmp_path / "run", f"data_mix.sources.mine.path={moved}")
    assert run(cfg, folder) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    with pytest.raises(ConfigError, match="was trained on no source yours"):
        resume(tmp_path / "run", f"data_mix.sources.yours.path={moved}")


def test_a_bundle_stands_for_its_run_and_stays_as_it_is(tiny_cfg, tmp_path):
    folder = tmp_path / "run"
    run(tiny_cfg, folder, Stop(after_steps=3))
    process = start([f"resume_from={folder}/bundle", "budget.hours=2"], tmp_path / "unused")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert (record(folder)["status"], record(folder)["step"]) == ("finished", 6)
    assert "resumed from" in (folder / "train.log").read_text()
    check_bundle(folder / "bundle")
    assert not (tmp_path / "unused").exists()


def test_a_bundle_without_its_run_is_refused(tiny_cfg, tmp_path):
    run(tiny_cfg, tmp_path / "run", Stop(after_steps=1))
    alone = shutil.copytree(tmp_path / "run" / "bundle", tmp_path / "alone" / "bundle")
    with pytest.raises(ConfigError, match="is a bundle, and lies in no run"):
        open_run(Config(resume_from=str(alone)), [], alone)
    check_bundle(alone)


def test_a_run_with_nothing_left_to_do_says_so_at_once(tiny_cfg, tmp_path):
    run(tiny_cfg, tmp_path)
    assert "is finished, with 6 steps; its bundle" in nothing_to_do(tiny_cfg, tmp_path)
    done = record(tmp_path) | {"status": "stopped_by_budget"}
    (tmp_path / "run.json").write_text(json.dumps(done))
    assert "give more than budget.hours=1.0" in nothing_to_do(tiny_cfg, tmp_path)
    tiny_cfg.budget.hours = 2.0
    assert nothing_to_do(tiny_cfg, tmp_path) is None
    (tmp_path / "run.json").write_text('{"status": "finis')
    assert nothing_to_do(tiny_cfg, tmp_path) is None


@pytest.mark.parametrize("damage", [b"5\n", b'{"loss": 1.0}\n', b'{"step": "x"}\n', b"\xff\x00\n"])
def test_damaged_metrics_stop_no_resume(tiny_cfg, tmp_path, damage):
    run(tiny_cfg, tmp_path, Stop(after_steps=3))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(damage)
    assert run(tiny_cfg, tmp_path) == 0


def test_a_loss_that_was_not_measured_is_absent_and_called_so(
    tiny_cfg, tmp_path, monkeypatch, caplog
):
    tiny_cfg.train.validate_every = 4
    monkeypatch.setattr(loop.WallClock, "fits_at_end", lambda clock, what: False)
    run(tiny_cfg, tmp_path)
    done = record(tmp_path)
    assert done["validation_loss_before"] > 0
    assert done["validation_loss"] is None  # though step 4 has one
    assert done["validation_step"] is None
    assert re.search(r"validation loss \d\.\d+ before, not measured after", caplog.text)
    assert "no time is left for the last validation; for one, give more than" in caplog.text


LOCKLESS = {"NO_LINK": "1", "NO_FLOCK": "37"}


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for a file system's refusals")
def test_a_file_system_without_locks_and_links_holds_a_run(tmp_path):
    library, source = tmp_path / "refuse.so", ROOT / "tests" / "support" / "no_links_no_locks.c"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    environment = os.environ | LOCKLESS | {"LD_PRELOAD": str(library)}
    folder = tmp_path / "run"
    endless = ["train.max_steps=100000", "train.epochs=100000"]
    first = start_fresh([*TINY, *endless], folder, env=environment)
    wait_for_checkpoint(first, folder, 2)
    again = [f"resume_from={folder}", "budget.hours=0.001", "budget.enforce=false"]
    second = start_fresh(again, folder, env=environment)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 2
    assert f"is in use by process {first.pid} of " in output
    first.kill()
    first.communicate(timeout=300)
    third = start_fresh(again, folder, env=environment)
    output, _ = third.communicate(timeout=300)
    assert third.returncode == 0, output
    check_bundle(folder / "bundle")
    assert "has no locks (No locks available)" in (folder / "train.log").read_text()


def test_a_full_disk_costs_no_more_than_the_steps_since_the_last_checkpoint(
    tiny_cfg, tmp_path, monkeypatch, caplog
):
    run(tiny_cfg, tmp_path / "whole")
    good, written = torch.save, []

    def save(content, file):
        written.append(content)
        if len(written) > 2:  # the dry run and one checkpoint had space
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        good(content, file)

    monkeypatch.setattr(torch, "save", save)
    assert run(tiny_cfg, tmp_path / "parts") == 0  # the bundle still has space
    assert "no checkpoint at step 4" in caplog.text
    assert "no checkpoint at step 6" in caplog.text
    kept = [path.name for path in (tmp_path / "parts" / "checkpoint").glob("*.pt")]
    assert kept == ["step_0000002.pt"]
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_disk_without_space_for_the_bundle_fails_the_run_and_keeps_its_checkpoint(
    tiny_cfg, tmp_path, monkeypatch
):
    run(tiny_cfg, tmp_path / "whole")
    good, written = saving.write_bundle, []

    def write_bundle(*args):
        written.append(args)
        if len(written) > 1:  # the dry run had space
            raise OSError(28, "No space left on device")
        good(*args)

    monkeypatch.setattr(saving, "write_bundle", write_bundle)
    with pytest.raises(OSError, match="No space left"):
        run(tiny_cfg, tmp_path / "parts")
    assert record(tmp_path / "parts")["status"] == "failed"
    monkeypatch.setattr(saving, "write_bundle", good)
    assert run(tiny_cfg, tmp_path / "parts") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_the_best_checkpoint_is_kept_and_can_be_packaged(tiny_cfg, tmp_path, monkeypatch, caplog):
    losses = {2: 3.0, 4: 1.0, 6: 2.0}

    def validation_loss(model, micro_batches, ranks):
        return next(losses_left)

    tiny_cfg.train.validate_every, tiny_cfg.train.checkpoint_every = 2, 5
    tiny_cfg.train.keep_checkpoints = 1
    tiny_cfg.budget.periodic_work_share = 1.0
    for name, choice in (("last", BundleOf.last), ("best", BundleOf.best)):
        losses_left = iter([4.0, *losses.values()])
        monkeypatch.setattr(validation, "validation_loss", validation_loss)
        tiny_cfg.train.bundle = choice
        assert run(tiny_cfg, tmp_path / name) == 0
        done = record(tmp_path / name)
        assert (done["best_step"], done["best_loss"]) == (4, 1.0)
    assert "train.bundle=best would take those" in caplog.text
    losses_left = iter([4.0, 3.0, 2.0, 1.0])
    assert run(tiny_cfg, tmp_path / "falling") == 0
    assert record(tmp_path / "falling")["best_step"] == 6  # validated after the last checkpoint
    assert not same_weights(tmp_path / "last", tmp_path / "best")
    newest, best_file = checkpoints(tmp_path / "last" / "checkpoint")
    assert (newest.name, best_file.name) == ("step_0000006.pt", "step_0000004.pt")
    best = torch.load(best_file, weights_only=True)["parameters"]
    packaged = adapter(tmp_path / "best")
    for name, value in best.items():
        assert torch.equal(packaged[name.replace(".default.", ".")], value)


def test_a_resume_on_another_base_model_is_refused(tiny_cfg, tmp_path, monkeypatch):
    run(tiny_cfg, tmp_path, Stop(after_steps=3))
    monkeypatch.setattr(build, "base_model_fingerprint", lambda cfg: "0123")
    with pytest.raises(ConfigError, match=r"another model \(fingerprint 0123\)"):
        run(tiny_cfg, tmp_path)
