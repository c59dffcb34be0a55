"""What the two images need beside Python's packages."""

import os
import re

from support.paths import ROOT

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
