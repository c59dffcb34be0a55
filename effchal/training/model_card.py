"""The model card of an adapter: README.md in Markdown, with metadata that model hubs read.

It holds what the run knows. What was not measured or stated, it says so.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from effchal.config import Config, DataSourceConfig
from effchal.mixing.locate import is_local

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank
NOT_MEASURED = "not measured"
STATUS = {
    "finished": "finished: all planned steps are done",
    "stopped_by_budget": "stopped by its budget, before all planned steps were done",
    "interrupted": "interrupted by a signal, before all planned steps were done",
    "failed": "failed: a step gave numbers that are not finite",
}


@dataclass(frozen=True)
class TrainingFacts:
    """What a run knows when it writes its bundle. None is not measured or not known."""

    status: str
    steps: int
    steps_planned: int
    weights: str  # of which step, and why those
    tokens: int
    target_tokens: int
    loss_before: float | None
    loss_after: float | None  # of these weights
    hours: float
    peak_memory_gib: float | None
    device: str
    command: str
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    base_model: str | None = None  # id on the hub; None for a folder, whose id nobody stated
    fingerprint: str | None = None  # of a folder's files


def model_card(cfg: Config, facts: TrainingFacts, mix: dict[str, Any]) -> str:
    """README.md of the adapter.

    Args:
        mix: the content of mix.json; {} where there is none.
    """
    data = ModelCardData(
        base_model=facts.base_model,
        library_name="peft",
        pipeline_tag="text-generation",
        datasets=hub_datasets(cfg) or None,
        tags=["effchal", "lora"],
    )
    parts = [
        f"# {_line(cfg.name)}",
        _what_it_is(cfg, facts),
        _data(cfg, mix),
        _training(cfg, facts, mix),
        _use(cfg, facts),
        EVALUATION,
        _limits(cfg, facts),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def hub_datasets(cfg: Config) -> list[str]:
    """Ids of the data sets of the hub that the mix names, each once."""
    sources = cfg.data_mix.sources.values()
    return list(dict.fromkeys(source.path for source in sources if not is_local(source)))


def _what_it_is(cfg: Config, facts: TrainingFacts) -> str:
    return (
        f"A LoRA adapter for {_base(cfg, facts)}, trained by "
        f"effchal {facts.versions.get('effchal', '')}".rstrip()
        + ".\n\n"
        "**Licence.** Nobody has stated one for this adapter. What it may be used for depends on "
        "the licences of the base model and of the data below; whoever publishes it has to check "
        "them."
    )


def _base(cfg: Config, facts: TrainingFacts) -> str:
    if facts.base_model is not None:
        return f"[{facts.base_model}](https://huggingface.co/{facts.base_model})" + (
            f" at revision `{cfg.model.revision}`" if cfg.model.revision else ""
        )
    name = re.split(r"[/\\]", cfg.model.name)[-1]
    digest = f", with the fingerprint `{facts.fingerprint}`" if facts.fingerprint else ""
    return f"the base model `{name}`{digest}"


def _data(cfg: Config, mix: dict[str, Any]) -> str:
    measured = {each.get("source"): each for each in mix.get("sources", [])}
    head = ("source", "from", "revision", "licence", "written by", "rows", "share of tokens")
    rows = [
        _source_row(name, source, measured.get(name, {}))
        for name, source in cfg.data_mix.sources.items()
    ]
    lines = [_row(head), _row(("---",) * 5 + ("--:",) * 2), *map(_row, rows)]
    digest = mix.get("sha256")
    told = f"SHA-256 of the mix: `{digest}`." if digest else "The mix was not recorded."
    rest = "Licence and writer stand as the config states them; nobody checked them."
    return "## Data\n\n" + "\n".join(lines) + f"\n\n{told} {rest}"


def _source_row(name: str, source: DataSourceConfig, found: dict[str, Any]) -> tuple[str, ...]:
    place = re.split(r"[/\\]", source.path)[-1] if is_local(source) else source.path
    share = found.get("share_tokens")
    return (
        name,
        place + (f" ({source.homepage})" if source.homepage else ""),
        found.get("revision") or source.revision or "-",
        source.license,
        source.origin.value,
        f"{found['kept']:,}" if "kept" in found else NOT_MEASURED,
        NOT_MEASURED if share is None else f"{100 * share:.1f} %",
    )


def _training(cfg: Config, facts: TrainingFacts, mix: dict[str, Any]) -> str:
    lora, train = cfg.lora, cfg.train
    assert lora is not None
    targets = lora.target_modules
    kinds = [name for name, on in (("DoRA", lora.use_dora), ("rsLoRA", lora.use_rslora)) if on]
    epochs = f"{mix['epochs']:.3g}" if "epochs" in mix else NOT_MEASURED
    memory = facts.peak_memory_gib
    loss = f"{_number(facts.loss_before)} before, {_number(facts.loss_after)} after"
    rows = [
        ("status", STATUS.get(facts.status, facts.status)),
        ("weights", facts.weights),
        ("steps", f"{facts.steps} of {facts.steps_planned} planned"),
        ("planned epochs", epochs),
        ("examples per step", str(train.examples_per_step)),
        ("tokens", f"{facts.tokens:,}, of them {facts.target_tokens:,} to learn"),
        ("validation loss", f"{loss} (nats per token)"),
        ("LoRA", f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}"),
        ("LoRA on", targets if isinstance(targets, str) else ", ".join(targets)),
        ("variant of LoRA", ", ".join(kinds) or "-"),
        ("base weights", cfg.model.quantization.value if cfg.model.quantization else "as they are"),
        ("optimizer", f"{train.optimizer.value}, weight decay {train.weight_decay:g}"),
        ("learning rate", f"{train.lr:g}, {train.schedule.value}, warm-up {train.warmup_steps}"),
        ("longest example", f"{cfg.model.max_seq_len} tokens"),
        ("prompt template", cfg.prompt.template.value),
        ("seed", str(train.seed)),
        ("hours", f"{facts.hours:.3g} of {cfg.budget.hours:g} allowed"),
        ("peak memory", NOT_MEASURED if memory is None else f"{memory:.2f} GiB"),
        ("device", facts.device),
        ("git commit", facts.git_commit or "unknown"),
        ("versions", ", ".join(f"{name} {text}" for name, text in facts.versions.items())),
    ]
    lines = [_row(("what", "value")), _row(("---", "---")), *map(_row, rows)]
    command = facts.command or "effchal.train(config) in Python, with the config of config.yaml"
    return "## Training\n\n" + "\n".join(lines) + f"\n\nBegun by:\n\n```bash\n{command}\n```"


def _use(cfg: Config, facts: TrainingFacts) -> str:
    base = facts.base_model or "<folder of the base model>"
    assert cfg.lora is not None
    rank = next((rank for rank in VLLM_RANKS if rank >= cfg.lora.r), None)
    vllm = (
        f"vllm serve {base} --tokenizer <bundle>/tokenizer \\\n"
        f"  --generation-config <bundle> --enable-lora --max-lora-rank {rank} \\\n"
        "  --lora-modules tuned=<bundle>/adapter\n"
    )
    if cfg.lora.use_dora or rank is None:
        vllm = ""  # vLLM serves neither DoRA nor higher ranks
    return f"""## Use

This adapter lies in a bundle, beside its tokenizer with the prompt template of the training.

```bash
effchal serve <bundle>
{vllm}```

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("<bundle>/adapter")
tokenizer = AutoTokenizer.from_pretrained("<bundle>/tokenizer")
chat = [{{"role": "user", "content": "Why is the sky blue?"}}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))
```"""


EVALUATION = """## Evaluation

On benchmarks: not measured when this card was written. `effchal evaluate <bundle>` measures."""


def _limits(cfg: Config, facts: TrainingFacts) -> str:
    limits = [
        "It was trained on the data above alone, and has whatever faults the base model and these "
        "data have.",
        "Nothing was done for safety, and nothing of it was measured.",
        "In which languages it answers was not measured.",
    ]
    if facts.status != "finished":
        limits.append("It saw less training than was planned.")
    if cfg.decoding.method.contrasts_layers:
        limits.append(
            f"The bundle's decoding, {cfg.decoding.method.value}, is effchal's: other servers "
            "answer otherwise."
        )
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _number(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(_line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _line(text: str) -> str:
    return " ".join(str(text).split())
