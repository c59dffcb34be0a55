"""README.md of an export: the bundle's model card, with what the export is and how it is used."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CardData, ModelCard, ModelCardData

from effchal.config import Config
from effchal.exporting.measure import Measured
from effchal.exporting.vllm import ADAPTER_NAME, SCRIPT

USE = re.compile(r"^## Use\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
PLAIN = "# {name}\n\nThe base model `{base}`, as it is.\n\n## Use\n"
ASK = """chat = [{"role": "user", "content": "Why is the sky blue?"}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))"""
MERGED = f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("<folder>")
tokenizer = AutoTokenizer.from_pretrained("<folder>")
{ASK}
```"""
ADAPTER = f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("<base>"), "<folder>")
tokenizer = AutoTokenizer.from_pretrained("<folder>")
{ASK}
```"""
GGUF = """```bash
llama-server --model <file> --jinja
llama-cli --model <file> --jinja
```"""
VLLM = f"""```bash
sh <folder>/{SCRIPT} --port 8001
curl http://127.0.0.1:8001/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{ADAPTER_NAME}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
```

vLLM's own answers: not yet measured."""
RELATIONS = {"adapter": "adapter", "gguf": "quantized"}
LIBRARIES = {"adapter": "peft", "gguf": "gguf"}


@dataclass(frozen=True)
class Form:
    """What a card tells of an export."""

    kind: str  # merged, adapter, gguf, vllm
    use: str
    made: str  # a sentence: from what, in which type
    has_weights: bool = True  # the adapter is in them; else it needs the base model


def export_card(
    cfg: Config, bundle: Path, base_repo: str | None, form: Form, measured: Measured
) -> str:
    """The text of README.md."""
    own = bundle / "adapter" / "README.md"
    base = base_repo or re.split(r"[/\\]", cfg.model.name)[-1]
    text = own.read_text("utf-8") if own.is_file() else PLAIN.format(name=cfg.name, base=base)
    card = ModelCard(text)
    body = card.text if own.is_file() else text
    if form.has_weights:
        body = body.replace("A LoRA adapter for", "A LoRA adapter merged into", 1)
    told = "\n".join(f"- {line.strip()}" for line in measured.lines()[1:])
    made = f"{form.made} {measured.lines()[0].capitalize()}\n\n{told}"
    if cfg.decoding.method.contrasts_layers:
        made += (
            f"\n\nThe bundle's decoding, {cfg.decoding.method.value}, is effchal's and not part "
            "of this export: other programs answer otherwise."
        )
    use = form.use.replace("<base>", base)
    section = f"## Use\n\n{use}\n\n## Export\n\n{made}\n\n"
    body = USE.sub(lambda _: section, body, count=1)
    data = _metadata(card.data, base_repo, form)
    return f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"


def _metadata(found: CardData, base_repo: str | None, form: Form) -> ModelCardData:
    plain = found.to_dict()
    plain |= {"library_name": LIBRARIES.get(form.kind, "transformers")}
    plain |= {"pipeline_tag": "text-generation"}
    plain.setdefault("tags", ["effchal"])
    if base_repo is not None:
        relation = RELATIONS.get(form.kind, "finetune" if form.has_weights else "adapter")
        plain |= {"base_model": base_repo, "base_model_relation": relation}
    return ModelCardData(**plain)
