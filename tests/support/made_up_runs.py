"""Run folders as the commands leave them, made without training anything."""

import json
import math
import random
from pathlib import Path

import yaml

from effchal.config import Config, LoraConfig, ModelConfig, TrainConfig, save_config

HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"> {{data}} $& <b>bold</b> 𝄞"


def config_text(**keys) -> str:
    """The whole config of a run, with lora.r, train.lr and so on as given."""
    path = Path(keys.pop("into"))
    lora = LoraConfig(r=keys.get("r", 8))
    train = TrainConfig(lr=keys.get("lr", 2e-4), max_steps=keys.get("steps", 20))
    cfg = Config(name="made_up", model=ModelConfig(name="builtin:tiny"), lora=lora, train=train)
    save_config(cfg, path)
    return path.read_text()


def make_training(folder: Path, config: str, r: int = 8, steps: int = 20, **record) -> Path:
    """A finished training run, with samples of its completions and a bundle without weights."""
    chance = random.Random(ascii(str(folder)))
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "manifest.json").write_text(json.dumps({"made_up": str(folder)}))
    tree = yaml.load(config, Loader=yaml.CSafeLoader)
    tree["lora"]["r"] = r
    (folder / "config.yaml").write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper))
    losses = [2 + 3 * math.exp(-step / steps) + chance.random() / 10 for step in range(steps + 1)]
    lines = [{"step": 0, "validation_loss": losses[0] + 0.1, "spent_s": 1.0}]
    for step, loss in enumerate(losses[1:], 1):
        lines.append({"step": step, "loss": loss, "tokens": 4096, "spent_s": 1.0 + step})
        if step % max(1, steps // 4) == 0:
            spent = {"step": step, "spent_s": 1.5 + step}
            lines.append(spent | {"validation_loss": loss + 0.1})
            lines.append(spent | {"samples": [{"prompt": "2 + 2 =", "completion": f"{step}!"}]})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = {
        "status": "finished",
        "step": steps,
        "steps_planned": steps,
        "tokens": 4096 * steps,
        "train_loss": losses[-1],
        "validation_loss_before": losses[0] + 0.1,
        "validation_loss": losses[-1] + 0.1,
        "best_loss": losses[-1] + 0.1,
        "best_step": steps,
        "spent_s": 3600.0 * r / 8,
        "peak_memory_gib": 1 + r / 16,
        "data_sha256": "d",
        "base_model": "b",
        "device": "a CPU",
        "plan": {
            "memory_gib": {"predicted": 2.0, "actual": 1 + r / 16},
            "hours": {"predicted": None, "actual": r / 8},
            "tokens_per_s": 4000.0 - r,
        },
    }
    (folder / "run.json").write_text(json.dumps(made | record))
    source = {"source": "own", "license": "MIT", "rows": 9, "kept": 8, "copies": 1.0, "tokens": 900}
    shares = {"share_rows": 1.0, "share_tokens": 1.0, "dropped": {"loop": {"count": 1}}}
    (folder / "mix.json").write_text(json.dumps({"sha256": "m", "sources": [source | shares]}))
    return folder


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def make_evaluation(
    folder: Path, of: Path, score: float = 0.5, instances: int = 30, text: str = "an answer"
) -> Path:
    """An evaluation of a run's bundle: greedy and DoLa on one entry of texts."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: made_up\nbundle: {of / 'bundle'}\n")
    entry = "jsonl:path=/data/questions.jsonl"
    dola = {"metrics": {"exact_match": interval(score)}, "layers": {"0": 3, "2": 9}}
    dola |= {"differences": {"exact_match": interval(0.05)}, "answers_that_differ": instances // 2}
    decodings = {"greedy": {"metrics": {"exact_match": interval(score - 0.05)}}, "dola low": dola}
    summary = {"split": "test", "instances": instances, "main_metric": "exact_match"}
    results = {
        "status": "finished",
        "model": {"bundle": str(of / "bundle"), "base_model": "builtin:tiny"},
        "peak_memory_gib": 0.5,
        "entries": {entry: summary | {"decodings": decodings}},
    }
    (folder / "results.json").write_text(json.dumps(results))
    with (folder / "instances.jsonl").open("w") as file:
        for number in range(instances):
            answers = {
                "greedy": {"text": text, "metrics": {"exact_match": 1.0}},
                "dola low": {
                    "text": text if number % 2 else f"{text} and more",
                    "metrics": {"exact_match": float(number % 2)},
                },
            }
            record = {"entry": entry, "id": f"id{number}", "split": "test", "decodings": answers}
            record |= {"prompt": f"Question {number}? {text}"}
            record |= {"references": [{"text": text, "correct": True}]}
            file.write(json.dumps(record) + "\n")
    return folder
