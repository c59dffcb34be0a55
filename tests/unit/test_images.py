"""What the two images need beside Python's packages."""

import fnmatch
import json
import os
import re
import runpy
import subprocess

import pytest
from support.paths import ROOT
from support.saved_adapters import save_bundle

import effchal

TRAIN, SERVE = ((ROOT / f"Dockerfile.{name}").read_text() for name in ("train", "serve"))


def instructions(text):
    """Lines without comments, continued ones joined."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


def variables(text):
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(instructions(text))))


def test_both_images_share_their_layers_down_to_torch():
    train, serve = (list(filter(None, instructions(text))) for text in (TRAIN, SERVE))
    shared = next(i for i, line in enumerate(train) if "torch setuptools" in line) + 1
    assert train[:shared] == serve[:shared]


def test_both_images_set_the_allocator_as_the_package_does():
    assert effchal.__version__
    for text in (TRAIN, SERVE):
        assert variables(text)["PYTORCH_ALLOC_CONF"] == os.environ["PYTORCH_ALLOC_CONF"]


def test_the_training_image_has_a_compiler_for_triton():
    (install,) = (line for line in instructions(TRAIN) if "apt-get install" in line)
    assert {"gcc", "libc6-dev"} <= set(install.split())
    assert not any("apt-get" in line for line in instructions(SERVE))


def test_the_driver_that_cuda_needs_is_told():
    places = [
        TRAIN,
        SERVE,
        *((ROOT / "docs" / name).read_text() for name in ("gpu.md", "deploy.md")),
    ]
    assert all("580" in text for text in places)


def copied(text, **arguments):
    """What an image's COPY instructions take from the build context."""
    lines = [line.split() for line in instructions(text) if line.startswith("COPY")]
    words = [word for line in lines for word in line[1:-1] if not word.startswith("--")]
    return [
        re.sub(r"\$\{(\w+):-(.*)\}", lambda m: arguments.get(m[1], m[2]), word) for word in words
    ]


def is_sent(path):
    """Whether .dockerignore lets the build context have a path: its last pattern that matches."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        parts = path.split("/")
        heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        if line and any(fnmatch.fnmatchcase(head, pattern) for head in heads):
            sent = line.startswith("!")
    return sent


def test_the_build_context_has_what_the_images_copy_and_no_more():
    handed_in = {"BUNDLE": "bundle", "BASE_MODEL": "base_model"}
    here = {"BUNDLE": "outputs/train/a/bundle", "BASE_MODEL": "outputs/models/smollm2_135m"}
    for text in (TRAIN, SERVE):
        for arguments in ({}, handed_in, here):
            assert all(map(is_sent, copied(text, **arguments)))
        assert not {".", "./"} & set(copied(text))
    assert {*handed_in.values(), *here.values()} <= {
        *copied(SERVE, **handed_in),
        *copied(SERVE, **here),
    }
    for path in (".git", ".venv/bin/python", "outputs/evaluate/a", "tests", ".env"):
        assert not is_sent(path)


def test_an_image_bakes_nothing_in_by_itself():
    assert {"ARG BUNDLE=", "ARG BASE_MODEL="} <= set(instructions(SERVE))
    assert "ARG BUNDLE" not in TRAIN


@pytest.mark.parametrize("has_base_model", [True, False])
def test_the_server_takes_a_base_model_that_is_there(has_base_model, tmp_path):
    entry = next(line for line in instructions(SERVE) if line.startswith("ENTRYPOINT"))
    program, option, script, name = json.loads(entry.removeprefix("ENTRYPOINT "))
    (tmp_path / "python").write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n')
    (tmp_path / "python").chmod(0o755)
    folder = tmp_path / "base_model"
    if has_base_model:
        folder.mkdir()
    script = script.replace("-d /base_model", f"-d {folder}")
    words = [program, option, script, name, "base_model=null", "name=a b"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    found = subprocess.run(words, env=environment, capture_output=True, text=True).stdout
    expected = ["-m", "effchal.serve", "bundle=/bundle", "serve.host=0.0.0.0", "serve.port=80"]
    expected += ["base_model=/base_model"] * has_base_model
    assert found.splitlines() == [*expected, "base_model=null", "name=a b"]


def test_a_damaged_bundle_fails_the_build(tmp_path, monkeypatch):
    bundle = tmp_path / "bundle"
    save_bundle(bundle, seed=0)
    (run,) = (line for line in instructions(SERVE) if "effchal.bundle" in line)
    assert "python -m effchal.bundle /bundle ${BASE_MODEL:+/base_model}" in run

    def check(*words):
        monkeypatch.setattr("sys.argv", ["effchal.bundle", str(bundle), *words])
        runpy.run_module("effchal.bundle", run_name="__main__")

    check()
    check("builtin:tiny")
    with pytest.raises(SystemExit, match=r"^error: .*give base_model=<folder>$"):
        check(str(tmp_path / "nowhere"))
    (bundle / "config.yaml").write_text("")
    for words in ([], ["builtin:tiny"]):
        with pytest.raises(SystemExit, match=r"^error: .*config.yaml has changed"):
            check(*words)
