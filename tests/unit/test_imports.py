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
