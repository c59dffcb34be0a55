"""Shell completion of the program."""

import os
import subprocess
import sys

import pytest
from support.paths import ROOT

from effchal.cli import command_help, completion


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("effchal ", None),
        ("effchal pl", ["plan "]),
        ("effchal train model", ["model=", "model."]),
        ("effchal train model=", ["model=mistral_7b ", "model=other ", "model=smollm2_135m "]),
        ("effchal train x=y experiment=q", ["experiment=quickstart "]),
        ("effchal train lora.use_", ["lora.use_rslora=", "lora.use_dora="]),
        ("effchal train lora.use_dora=t", ["lora.use_dora=true "]),
        ("effchal train train.schedule=c", ["train.schedule=cosine ", "train.schedule=constant "]),
        ("effchal train serve", []),
        ("effchal serve outputs/", []),
        ("effchal trian mo", []),
        ("effchal train --mu", ["--multirun "]),
        ("effchal lm_eval tas", ["tasks="]),
        ("effchal export to=a", ["to=adapter "]),
        ("effchal compare --", ["--help "]),
        ("effchal compare outputs/", []),
        ("effchal data sh", ["show.", "show "]),
        ("effchal data d", ["data_mix=", "data=", "data_mix.", "diff "]),
        ("effchal data show d", ["data_mix=", "data=", "data_mix."]),
    ],
)
def test_completion_gives_what_can_stand_there(line, words):
    if words is None:
        words = [f"{name} " for name in command_help.COMMANDS]
    assert completion.complete(line)[: max(1, len(words))] == words


def bash_completes(line, tmp_path):
    """What bash would put in place of the last word of a line."""
    program = tmp_path / "effchal"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m effchal "$@"\n')
    program.chmod(0o755)
    code = f"""
    source <(effchal --completion bash)
    complete -p effchal
    COMP_LINE={line!r} COMP_POINT=${{#COMP_LINE}}
    _effchal
    printf '%s|' "${{COMPREPLY[@]}}"
    """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    command = ["bash", "-c", code]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True
    )
    defined, _, words = result.stdout.partition("\n")
    assert "-F _effchal effchal" in defined
    return words.split("|")[:-1]


@pytest.mark.integration
def test_bash_completes(tmp_path):
    assert bash_completes("effchal eval", tmp_path) == ["evaluate "]
    assert bash_completes("effchal train model=ti", tmp_path) == ["tiny "]
    assert bash_completes("effchal train a=b lora.al", tmp_path) == ["lora.alpha="]
    assert bash_completes("effchal serve outputs/", tmp_path) == [""]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell):
    assert "effchal --complete" in completion.script(shell)
