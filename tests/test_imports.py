"""The import table of the architecture, held."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import effchal

PACKAGE = Path(effchal.__file__).parent
ENTRY_POINTS = {"check", "train", "plan.__main__", "package", "evaluate", "serve.__main__", "helm.__main__"}
SCENARIO = {"scenarios.files", "scenarios.helm_adapter", "scenarios.types"}
ALLOWED = {
    "unknown_keys": set(),
    "choices": set(),
    "checks": set(),
    "decoding_config": {"checks", "choices", "unknown_keys"},
    "helm_config": {"checks"},
    "config": {"checks", "choices", "decoding_config", "helm_config", "unknown_keys"},
    "cli": {"config", "unknown_keys"},
    "prompts": set(),
    "parts": {"config"},
    "attention": {"parts"},
    "loss": {"lora_linear"},
    "signals": set(),
    "mapped": set(),
    "lora_linear": {"mapped"},
    "llama_layer": {"attention", "choices", "lora_linear"},
    "fast": {"attention", "choices", "config", "llama_layer", "model", "parts"},
    "data.sources": {"choices", "config", "prompts"},
    "data.mix": {"config", "data.sources"},
    "data.packing": {"data.mix", "data.sources", "prompts"},
    "tiny_model": set(),
    "model": {"choices", "config", "mapped", "tiny_model"},
    "budget": {"choices", "config"},
    "checkpoint": set(),
    "track": {"choices", "config"},
    "bundle": {"config", "checkpoint", "model"},
    "decode.contrast": set(),
    "decode.text": set(),
    "decode.cache": set(),
    "decode.layers": {"choices", "config", "decode.contrast"},
    "decode.products": {"mapped", "model"},
    "decode.step": {"decode.cache", "decode.products"},
    "decode.widened": {"decode.products"},
    "decode.taps": {
        *("decode.cache", "decode.layers", "decode.products", "decode.step", "decode.widened", "parts"),
    },
    "decode.sampling": {"decode.layers"},
    "decode.branch": {"decode.contrast", "decode.layers", "decode.sampling", "decode.taps", "decode.text"},
    "decode.prefixes": {"decode.cache"},
    "decode.engine": {
        *("decode.branch", "decode.cache", "decode.contrast", "decode.layers", "decode.prefixes"),
        *("decode.sampling", "decode.taps"),
    },
    "decode.score": {"decode.cache", "decode.layers", "decode.taps"},
    "inference": {"bundle", "cli", "config", "decode.engine", "model"},
    "serve.protocol": set(),
    "serve.openai_types": {"serve.protocol"},
    "serve.openapi": {"serve.openai_types", "serve.protocol"},
    "serve.metrics": set(),
    "serve.batcher": {
        *("config", "serve.metrics", "decode.branch", "decode.cache", "decode.engine", "decode.prefixes"),
        "decode.sampling",
        "mapped",
    },
    "serve.service": {
        *("choices", "config", "decoding_config", "prompts", "serve.batcher", "serve.metrics", "serve.protocol"),
        *("decode.branch", "decode.engine", "decode.layers", "decode.sampling"),
    },
    "serve.request": {"serve.service"},
    "serve.access": {"serve.protocol", "serve.service", "decode.branch"},
    "serve.openai": {
        *("prompts", "serve.access", "serve.openai_types", "serve.protocol", "serve.request", "serve.service"),
        *("decode.branch", "decode.sampling"),
    },
    "serve.app": {
        *("cli", "config", "inference", "prompts", "decode.layers", "serve.access", "serve.openai", "serve.openapi"),
        *("serve.protocol", "serve.request", "serve.service"),
    },
    "serve": {"serve.app"},
    "serve.__main__": {"cli", "config", "inference", "serve.app"},
    "rules": {"choices", "config"},
    "check": {"cli", "config", "model", "rules"},
    "ready": set(),
    "helm": set(),
    "helm.inside": set(),
    "helm.results": set(),
    "helm.deployment": {"config", "inference", "prompts"},
    "helm.processes": {"config", "helm.results", "ready"},
    "helm.__main__": {
        *("bundle", "cli", "config", "inference", "ready", "track"),
        *("helm.deployment", "helm.processes", "helm.results"),
    },
    "package": {"bundle", "cli", "config", "model"},
    "plan": set(),
    "plan.live": set(),
    "plan.blank": {"choices", "config", "model"},
    "plan.memory": {
        *("choices", "config", "data.packing", "fast", "loss", "model", "parts", "plan.blank", "plan.live", "step"),
    },
    "plan.workload": {"config", "data.packing", "plan.memory"},
    "plan.records": {"config", "track"},
    "plan.hours": {"config", "plan.memory", "plan.records", "plan.workload"},
    "plan.decide": {
        *("choices", "config", "model", "plan.blank", "plan.hours", "plan.memory", "plan.records", "plan.workload"),
        "track",
    },
    "plan.actual": {"config", "plan.decide", "plan.records", "plan.workload"},
    "plan.probe": {
        *("bundle", "checkpoint", "config", "data.prepare", "data.sources", "job", "model", "prompts", "step"),
        *("plan.blank", "plan.decide", "plan.records", "plan.workload"),
    },
    "plan.screen": {"config", "plan.decide", "plan.hours"},
    "plan.__main__": {
        *("cli", "config", "model", "rules", "plan.blank", "plan.decide", "plan.probe", "plan.screen"),
    },
    "step": {"attention", "choices", "config", "data.packing", "loss", "model", "parts"},
    "train": {"cli", "config", "training"},
    "data.prepare": {"config", "data.mix", "data.packing", "data.sources", "prompts"},
    "run_lock": {"config"},
    "job": {
        *("checkpoint", "config", "data.packing", "data.prepare", "data.sources", "decode.layers", "fast", "model"),
        *("plan.actual", "plan.decide", "plan.records", "plan.workload", "prompts", "step", "track"),
    },
    "training": {
        *("budget", "bundle", "checkpoint", "choices", "cli", "config", "data.prepare", "job", "model", "rules"),
        *("plan.actual", "plan.records", "run_lock", "signals", "step", "track"),
    },
    "scenarios.types": {"config"},
    "scenarios.files": {"scenarios.types"},
    "scenarios.helm_adapter": {"scenarios.types"},
    "scenarios.multiple_choice": SCENARIO,
    "scenarios.bbq": {*SCENARIO, "scenarios.multiple_choice"},
    "scenarios.generation": {*SCENARIO, "scenarios.multiple_choice"},
    "scenarios.metrics": {"scenarios.bbq", "scenarios.types"},
    "scenarios.truthful_qa_mc": {"scenarios.helm_adapter", "scenarios.multiple_choice", "scenarios.types"},
    "scenarios.jsonl": SCENARIO,
    "scenarios.hub": {
        *("scenarios.bbq", "scenarios.files", "scenarios.generation", "scenarios.multiple_choice", "scenarios.types"),
    },
    "scenarios.entries": {
        *("scenarios.bbq", "scenarios.generation", "scenarios.helm_adapter", "scenarios.jsonl", "scenarios.types"),
        *("scenarios.hub", "scenarios.metrics", "scenarios.multiple_choice", "scenarios.truthful_qa_mc"),
    },
    "scenarios": {"scenarios.entries", "scenarios.metrics", "scenarios.types"},
    "stats": set(),
    "variants": {"choices", "config", "decode.layers", "model"},
    "results": {"config", "stats", "variants"},
    "answers": {
        *("config", "inference", "prompts", "results", "scenarios", "variants"),
        *("decode.branch", "decode.engine", "decode.sampling", "decode.score"),
    },
    "evaluate": {
        *("answers", "bundle", "cli", "config", "inference", "prompts", "results", "scenarios", "track", "variants"),
    },
}
HOMES = {  # a heavy library is imported in these modules alone
    "hydra": {"cli", "config"},
    "omegaconf": {"cli", "config", "decoding_config", "unknown_keys"},
    "transformers": {"attention", "model", "plan.blank", "tiny_model"},
    "peft": {"model"},
    "bitsandbytes": {"plan.blank", "step"},
    "liger_kernel": {"loss"},
    "datasets": {"data.sources", "scenarios.hub"},
    "wandb": {"track"},
    "flask": {"serve.access", "serve.app", "serve.openai", "serve.request"},
    "gunicorn": {"serve.app", "serve.__main__"},
    "pydantic": {"serve.access", "serve.openai_types", "serve.openapi", "serve.protocol", "serve.request"},
    "prometheus_client": {"serve.metrics"},
    "rich": {"track"},
    "matplotlib": {"results"},
    "rouge_score": {"scenarios.metrics"},
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
        "app.load_engine(app.check_subject(cfg))\n"
        "print([name for name in ('datasets', 'wandb') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_file_is_too_long_to_read():
    for _, path in modules():
        assert len(path.read_text().splitlines()) <= 320, path
