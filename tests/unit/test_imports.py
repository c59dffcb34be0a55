"""What pyproject.toml's import contracts cannot see: what is imported while a command runs."""

import subprocess
import sys

import pytest

LOAD = """
import sys, effchal.serve, effchal.serving.app as app
from effchal.config import Config, ModelConfig
from effchal.config.choices import Dtype
cfg = Config(model=ModelConfig(name='builtin:tiny', dtype=Dtype.float32), lora=None)
app.load_engine(app.check_model_source(cfg))
print([name for name in ('datasets', 'wandb') if name in sys.modules])
"""


@pytest.mark.integration
def test_serving_reaches_neither_datasets_nor_wandb():
    result = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


REFUSE = """
import sys
from effchal.__main__ import main
for words in sys.stdin.read().splitlines():
    sys.argv = ['effchal', *words.split()]
    try:
        main()
    except SystemExit as end:
        print(end.code, 'torch' in sys.modules)
"""
WRONG = [
    "train data=nowhere.jsonl model=tiny",
    "train data_mix=quickstart model.name=./nowhere",
    "evaluate bundle=nowhere",
    "evaluate lora=none model.name=./nowhere",
    "lm_eval bundle=nowhere tasks=[gsm8k]",
    "helm bundle=nowhere",
    "serve bundle=nowhere",
    "export bundle=nowhere to=merged",
    "submit bundle=nowhere",
    "package lora=none model.name=./nowhere",
]


@pytest.mark.integration
def test_what_is_not_there_is_refused_before_torch_loads(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", REFUSE],
        input="\n".join(WRONG),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.stdout.splitlines() == ["2 False"] * len(WRONG), result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == len(WRONG)
    assert all("nowhere" in line for line in told)
