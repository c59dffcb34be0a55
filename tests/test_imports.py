"""The import table of the architecture, held."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import effchal

PACKAGE = Path(effchal.__file__).parent
ENTRY_POINTS = {"train", "package", "serve.__main__"}
ALLOWED = {
    "unknown_keys": set(),
    "config": {"unknown_keys"},
    "cli": {"config", "unknown_keys"},
    "prompts": set(),
    "data.sources": {"config", "prompts"},
    "data.mix": {"config", "data.sources"},
    "data.packing": {"data.mix", "data.sources", "prompts"},
    "model": {"config"},
    "budget": {"config"},
    "checkpoint": set(),
    "track": {"config"},
    "bundle": {"config", "checkpoint", "model"},
    "decode.contrast": set(),
    "decode.text": set(),
    "decode.engine": {"decode.text", "model"},
    "serve.protocol": set(),
    "serve.app": {"cli", "config", "prompts", "bundle", "model", "decode.engine", "serve.protocol"},
    "serve": {"serve.app"},
    "serve.__main__": {"cli", "config", "serve.app"},
    "package": {"bundle", "cli", "config", "model"},
    "step": {"config", "data.packing", "model"},
    "train": {
        *("budget", "bundle", "checkpoint", "cli", "config", "model", "prompts", "step", "track"),
        *("data.mix", "data.packing", "data.sources"),
    },
}
HOMES = {  # a heavy library is imported in these modules alone
    "hydra": {"cli", "config"},
    "omegaconf": {"cli", "config", "unknown_keys"},
    "transformers": {"model", "decode.engine"},
    "peft": {"model"},
    "bitsandbytes": {"step"},
    "datasets": {"data.sources"},
    "wandb": {"track"},
    "flask": {"serve.app"},
    "gunicorn": {"serve.app", "serve.__main__"},
    "pydantic": {"serve.app", "serve.protocol"},
    "rich": {"track"},
}


def modules():
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_a_module_imports_only_what_the_table_allows(name, path):
    ours = {found.removeprefix("effchal.") for found in imports(path) if found.startswith("effchal.")}
    assert ours <= ALLOWED.get(name, set()), f"{name} imports {sorted(ours - ALLOWED.get(name, set()))}"
    assert not ours & ENTRY_POINTS
    for found in imports(path):
        home = HOMES.get(found.partition(".")[0])
        assert home is None or name in home, f"{name} imports {found}, whose home is {sorted(home)}"


def test_serving_reaches_neither_datasets_nor_wandb():
    code = (
        "import sys, effchal.serve, effchal.serve.app as app, effchal.bundle, effchal.decode.engine\n"
        "from effchal.config import *\n"
        "cfg = Config(model=ModelConfig(name='builtin:tiny', dtype=Dtype.float32), lora=None)\n"
        "app.load_engine(cfg)\n"
        "print([name for name in ('datasets', 'wandb') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_file_is_too_long_to_read():
    for _, path in modules():
        assert len(path.read_text().splitlines()) <= 320, path
