"""The import table of the architecture, held."""

import ast
import subprocess
import sys
from pathlib import Path

import effchal

PACKAGE = Path(effchal.__file__).parent


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


def test_serving_reaches_neither_datasets_nor_wandb():
    code = (
        "import sys, effchal.serve, effchal.serving.app as app, effchal.bundle, effchal.decoding.engine\n"
        "from effchal.config import Config, ModelConfig\nfrom effchal.config.choices import Dtype\n"
        "cfg = Config(model=ModelConfig(name='builtin:tiny', dtype=Dtype.float32), lora=None)\n"
        "app.load_engine(app.check_model_source(cfg))\n"
        "print([name for name in ('datasets', 'wandb') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_no_file_is_too_long_to_read():
    for _, path in modules():
        assert len(path.read_text().splitlines()) <= 320, path
