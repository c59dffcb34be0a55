"""What several benchmarks share: folders, the small model, shipped questions, lines of results."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2 = ROOT / "outputs" / "models" / "smollm2_135m"
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def print_result(values: dict[str, Any]) -> None:
    print("RESULT", json.dumps(values), flush=True)


def instructions() -> list[dict[str, str]]:
    """The instructions that ship with the project, with their answers."""
    file = ROOT / "effchal" / "mixing" / "quickstart" / "instructions.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def admitted_engine(name: str, dtype: str = "float32") -> Any:
    """An Engine of the model in a folder, which the admission check has passed."""
    from effchal.admission.admit import admit
    from effchal.config import ModelConfig
    from effchal.config.choices import Dtype
    from effchal.decoding.engine import Engine
    from effchal.model.device import pick_device
    from effchal.model.load import load_base_model
    from effchal.model.tokenizer import load_tokenizer

    cfg = ModelConfig(name=name, dtype=Dtype(dtype))
    model = load_base_model(cfg, pick_device())
    admit(model)
    return Engine(model, load_tokenizer(cfg))


def forget_peak() -> None:
    """Linux: begin this process's VmHWM anew."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_mib(name: str) -> float:
    """A line of this process's status: VmHWM (the peak), VmRSS (resident) or another."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) / 1024  # type: ignore[index]
