"""The program: its commands, help, arguments and completion."""

import os
import subprocess
import sys
import time

import pytest
from support.configs import compose_config as composed_once
from support.paths import ROOT

from effchal import __version__
from effchal.cli import command_help
from effchal.cli.arguments import hydra_arguments, quote, split_flags
from effchal.cli.compose import compose_config
from effchal.config import ConfigError

PROGRAM = [sys.executable, "-m", "effchal"]
# A command that prints what it gets; its file's name makes it `train`.
PRINTING_COMMAND = """
from effchal.cli.compose import entry_point

@entry_point
def main(cfg, overrides, output_dir):
    print("got", cfg.lora.r, overrides, output_dir)

main()
"""


def call(*arguments, program=PROGRAM, **options):
    command = [*program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)


@pytest.fixture
def printing(tmp_path):
    (tmp_path / "train.py").write_text(PRINTING_COMMAND)
    return [sys.executable, str(tmp_path / "train.py")]


@pytest.mark.integration
@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_alone_it_lists_every_command_with_a_line(arguments):
    result = call(*arguments)
    assert result.returncode == 0
    for name in command_help.COMMANDS:
        assert f"\n  {name:13}{command_help.docstring(name).splitlines()[0]}\n" in result.stdout


def test_every_command_has_a_first_line_that_fits_the_list():
    for name in command_help.COMMANDS:
        first = command_help.docstring(name).splitlines()[0]
        assert 10 < len(first) <= 88
        assert first.endswith(".")


@pytest.mark.integration
def test_it_says_its_version():
    assert call("--version").stdout == f"effchal {__version__}\n"


@pytest.mark.integration
def test_an_unknown_command_ends_with_the_nearest_one():
    result = call("trian", "lora.r=8")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: no command 'trian'; did you mean train?\n"


@pytest.mark.integration
def test_help_of_a_command_loads_no_heavy_library_and_is_quick():
    code = (
        "import sys, effchal.__main__; sys.argv = ['effchal', 'evaluate', '--help']\n"
        "effchal.__main__.main()\n"
        "print([name for name in ('torch', 'transformers', 'flask') if name in sys.modules])"
    )
    started_s = time.process_time()
    before = os.times()
    result = call(program=[sys.executable, "-c", code])
    after = os.times()
    assert result.stdout.splitlines()[-1] == "[]"
    assert after.children_user - before.children_user < 2  # 0.7 s where nothing else runs
    assert time.process_time() - started_s < 1


@pytest.mark.parametrize("command", [n for n, c in command_help.COMMANDS.items() if c.reads])
def test_help_shows_what_the_command_reads(command, capsys, monkeypatch):
    monkeypatch.setattr(command_help, "compose_config", composed_once)
    command_help.print_help(command, ["--help"])
    text = capsys.readouterr().out
    reads = command_help.COMMANDS[command].reads.split()
    assert text.startswith(command_help.docstring(command))
    assert text.count(f"  effchal {command} ") == 4  # three examples, and Hydra's flags
    assert ("  train.lr=" in text) == ("train" in reads)
    assert ("  serve.port=" in text) == ("serve" in reads)
    assert ("  model.max_seq_len=2048  (int, tokens)\n" in text) == ("model" in reads)
    assert ("  model=<mistral_7b | other | smollm2_135m | tiny>\n" in text) == ("model" in reads)


OWN = [name for name, each in command_help.COMMANDS.items() if not each.reads]


@pytest.mark.integration
@pytest.mark.parametrize("command", OWN)
def test_help_of_a_command_with_arguments_of_its_own(command):
    code = (
        f"import sys, effchal.{command} as command; print(command.parser().format_help())\n"
        "print([name for name in ('torch', 'transformers', 'flask') if name in sys.modules])"
    )
    text, loaded = call(program=[sys.executable, "-c", code]).stdout.rsplit("\n", 2)[:2]
    assert command_help.docstring(command) in text
    assert text.count(f"\n  effchal {command} ") == len(command_help.COMMANDS[command].examples)
    assert loaded == "[]"


@pytest.mark.integration
@pytest.mark.parametrize("command", OWN)
def test_a_wrong_flag_of_such_a_command_is_one_line(command):
    result = call(command, "--no-such-flag", ".", ".")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: unrecognized arguments: --no-such-flag")
    assert result.stderr.count("\n") == 1


def test_help_shows_what_the_typed_overrides_do(capsys):
    command_help.print_help("train", ["lora.r=7", "--help", "model=tiny"])
    text = capsys.readouterr().out
    assert "  lora.r=7  (int)\n      Rank.\n" in text
    assert "  model.name=builtin:tiny  (str)\n" in text


def test_help_beside_a_wrong_key_is_an_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        command_help.print_help("train", ["lora.rank=7", "--help"])
    assert capsys.readouterr().err.startswith("error: unknown key lora.rank")


@pytest.mark.integration
@pytest.mark.parametrize(
    "typed",
    [
        ["lora.r=3", "--cfg", "job", "-p", "lora"],
        ["--cfg", "job", "lora.r=3", "--package", "lora"],
        ["-c", "job", "-p", "lora", "lora.r=3"],
        ["--cfg=job", "lora.r=3", "--resolve", "-p", "lora"],
    ],
)
def test_flags_of_hydra_work_in_any_place(typed):
    result = call("train", *typed)
    assert (result.returncode, result.stderr) == (0, "")
    assert "r: 3\n" in result.stdout


@pytest.mark.integration
@pytest.mark.parametrize("flag", ["-m", "--multirun", "--multi"])
@pytest.mark.parametrize("first", [True, False])
def test_a_sweep_works_wherever_its_flag_stands(printing, tmp_path, flag, first):
    words = ["lora.r=2,4", f"hydra.sweep.dir={tmp_path}/sweep"]
    result = call(*([flag, *words] if first else [*words, flag]), program=printing)
    lines = [line for line in result.stdout.splitlines() if line.startswith("got")]
    assert lines == [
        f"got 2 ['lora.r=2'] {tmp_path}/sweep/0",
        f"got 4 ['lora.r=4'] {tmp_path}/sweep/1",
    ]


@pytest.mark.integration
def test_another_config_folder_and_file_can_be_given_at_the_end(printing, tmp_path):
    (tmp_path / "conf").mkdir()
    text = "defaults:\n  - config\n  - _self_\nlora:\n  r: 5\n"
    (tmp_path / "conf" / "mine.yaml").write_text(text)
    run_dir = f"hydra.run.dir={tmp_path}/run"
    result = call("name=x", run_dir, "-cd", str(tmp_path / "conf"), "-cn", "mine", program=printing)
    assert f"got 5 ['name=x'] {tmp_path}/run\n" in result.stdout


@pytest.mark.integration
def test_the_job_is_called_after_its_command():
    for program in (PROGRAM, [sys.executable, "-m", "effchal.train"]):
        typed = ["train"] * (program is PROGRAM) + ["--cfg", "hydra", "-p", "hydra.job"]
        assert "name: train\n" in call(*typed, program=program).stdout


def test_flags_keep_their_values_and_all_else_is_a_word():
    typed = ["a=b", "--info", "config", "c=d", "-i", "x=y", "--config-n", "mine", "-m", "folder"]
    flags = ["--info", "config", "-i", "--config-n", "mine", "-m"]
    assert split_flags(typed) == (flags, ["a=b", "c=d", "x=y", "folder"])


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def test_a_folder_stands_for_a_bundle(tmp_path):
    run = make(tmp_path / "run", "config.yaml", "bundle/manifest.json")
    for command in ("serve", "evaluate", "helm"):
        for folder in (run, run / "bundle"):
            found = hydra_arguments(command, ["serve.port=1", str(folder)])
            assert found == ["serve.port=1", f"bundle='{folder}'"]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("train", ["config.yaml", "bundle/manifest.json"]),
        ("evaluate", ["config.yaml", "results.json"]),
        ("helm", ["config.yaml", "scores.json"]),
    ],
)
def test_a_folder_stands_for_the_run_to_go_on_with(command, names, tmp_path):
    run = make(tmp_path / "run", *names)
    folder, run_dir = hydra_arguments(command, [str(run)])
    assert folder == f"resume_from='{run}'"
    assert run_dir == f"hydra.run.dir='{run}'"


@pytest.mark.parametrize(
    ("command", "names", "message"),
    [
        ("serve", None, r"no folder .*run \(from "),
        ("train", None, r"no folder .*run \(from "),
        ("train", ["metrics.jsonl"], "is no run: it has no config.yaml"),
        ("train", ["config.yaml", "manifest.json"], "is a bundle; give the run folder"),
        ("plan", ["config.yaml"], "effchal plan takes no folder"),
    ],
)
def test_a_folder_of_no_use_is_one_clear_error(command, names, message, tmp_path):
    if names:
        make(tmp_path / "run", *names)
    with pytest.raises(ConfigError, match=message):
        hydra_arguments(command, [str(tmp_path / "run")])


@pytest.mark.parametrize("command", ["train", "plan", "data"])
def test_a_file_is_told_to_be_data(command, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.touch()
    with pytest.raises(ConfigError, match=rf"rows.jsonl is a file; for .* give data={path}"):
        hydra_arguments(command, [str(path)])


def test_two_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="one folder at most"):
        hydra_arguments("serve", [str(tmp_path), str(tmp_path / "other")])


@pytest.mark.integration
def test_a_path_that_is_not_there_ends_with_one_line_and_code_2():
    result = call("serve", "outputs/train/nothing")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no folder outputs/train/nothing (from ")
    assert result.stderr.count("\n") == 1


@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a,b",
        "a=b",
        "it's",
        "[x]",
        "a:b",
        "${x}",
        "back\\",
        "\\'",
        'say "x"',
        "ü",
        "~a",
        "(1",
    ],
)
def test_any_folder_name_arrives_as_it_is(name, tmp_path):
    folder = make(tmp_path / name / "run", "bundle/manifest.json")
    found = hydra_arguments("serve", [str(folder)])
    assert compose_config(found).bundle == str(folder)
    run = make(tmp_path / name / "run", "config.yaml")
    resumed, run_dir = hydra_arguments("train", [str(run)])
    assert compose_config([resumed]).resume_from == str(run)
    assert run_dir == f"hydra.run.dir={quote(str(run))}"


@pytest.mark.integration
def test_an_unknown_shell_is_one_line():
    result = call("--completion", "ksh")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: no completion for 'ksh', only for bash, zsh, fish\n"


@pytest.mark.integration
def test_a_reader_that_stops_is_no_error():
    process = subprocess.Popen(
        [*PROGRAM, "evaluate", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (141, b"")
