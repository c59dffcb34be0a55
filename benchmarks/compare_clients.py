"""Our server against HELM's own HuggingFaceClient, completion by completion.

python -m effchal.helm model=smollm2_135m prompt=plain lora=none model.dtype=float32 ...
python benchmarks/compare_clients.py outputs/helm/<its folder>

The second command has HELM run the same entries on the same model inside its own process,
into <folder>/huggingface, where a second start goes on. It prints one RESULT line an entry.
Before it comes a DIFFERS line for every completion that differs: the texts after the common
beginning, and the three most likely tokens there with their log-probabilities. HELM's client
generates to the last allowed token where its stop, tokenized alone, is not what the model
says (GSM8K).
"""

import json
import sys
from pathlib import Path

import torch
from common import print_result

from effchal.config import Config, load_config
from effchal.evaluation.helm.deployment import max_sequence_length, place_data, write_prod_env
from effchal.evaluation.helm.processes import HELM_LOG, run_helm
from effchal.evaluation.helm.results import error_of, read_run, run_folder
from effchal.model.load import load_base_model
from effchal.model.tokenizer import base_model_path
from effchal.model_source import ModelSource, check_model_source, load_source_tokenizer
from effchal.prompts.encoder import PromptEncoder, Turn

NAME = "transformers/base-model"


def main() -> None:
    ours = Path(sys.argv[1])
    theirs = ours / "huggingface"
    cfg = load_config(ours / "config.yaml")
    source = check_model_source(cfg)
    if source.bundle is not None:
        sys.exit(f"error: {ours} evaluated a bundle; HELM's client needs a base model's run")
    scores = json.loads((ours / "scores.json").read_text(encoding="utf-8"))
    run_theirs(cfg, source, theirs)
    log = (theirs / HELM_LOG).read_text(encoding="utf-8", errors="replace")
    our_name = scores["model"]["name"].replace("/", "_")
    explain, results = Explainer(cfg, source), []
    for each in scores["runs"]:
        name = each["name"].replace(our_name, NAME.replace("/", "_"))
        if read_run(run_folder(theirs, name)) is None:
            sys.exit(f"error: {name}: {error_of(log, name)}")
        folders = run_folder(ours, each["name"]), run_folder(theirs, name)
        results.append(compare(each["entry"], folders[0], folders[1], explain))
        print_result(results[-1])
    total, same = (sum(result[key] for result in results) for key in ("completions", "same_text"))
    result = {"entry": "all", "completions": total, "same_text": same, "share": same / total}
    print_result(result)


def run_theirs(cfg: Config, source: ModelSource, folder: Path) -> None:
    """Run HELM's HuggingFaceClient on the base model of `cfg`; complete entries are skipped."""
    folder.mkdir(exist_ok=True)
    tokenizer = load_source_tokenizer(source)
    weights = {"pretrained_model_name_or_path": str(Path(base_model_path(source.base)).absolute())}
    model = {
        "torch_dtype": f"torch.{cfg.model.dtype.value}",
        "device": "cpu",
        "apply_chat_template": False,
    }
    write_prod_env(
        folder / "prod_env",
        name=NAME,
        description=source.base.name,
        max_sequence_length=max_sequence_length(cfg, source),
        client={
            "class_name": "helm.clients.huggingface_client.HuggingFaceClient",
            "args": weights | model,
        },
        tokenizer={
            "class_name": "helm.tokenizers.huggingface_tokenizer.HuggingFaceTokenizer",
            "args": weights,
        },
        end_of_text=tokenizer.eos_token,  # their client cuts its text there
    )
    if cfg.scenario.path is not None:
        place_data(Path(cfg.scenario.path), folder / "scenarios")
    run_helm(cfg, folder, cfg.scenario.entries, NAME, None)


def compare(entry: str, ours: Path, theirs: Path, explain: "Explainer") -> dict:
    """Counts of one entry. Completions that differ are printed."""
    pairs = list(zip(states(ours), states(theirs), strict=True))
    same = 0
    for our, their in pairs:
        prompt = our["request"]["prompt"]
        if prompt != their["request"]["prompt"]:
            sys.exit(f"error: {entry}, {our['instance']['id']}: the prompts differ")
        texts = [state["result"]["completions"][0]["text"] for state in (our, their)]
        same += texts[0] == texts[1]
        if texts[0] != texts[1]:
            found = {"entry": entry, "id": our["instance"]["id"], **explain(prompt, *texts)}
            print("DIFFERS", json.dumps(found, ensure_ascii=False))
    return {
        "entry": entry,
        "completions": len(pairs),
        "same_text": same,
        "share": same / len(pairs),
    }


class Explainer:
    """Where two completions part, and how close the most likely tokens are there."""

    def __init__(self, cfg: Config, source: ModelSource) -> None:
        self.source, self.model = source, None
        self.encoder = PromptEncoder(load_source_tokenizer(source), cfg.prompt)

    def __call__(self, prompt: str, ours: str, theirs: str) -> dict:
        ids = [self.encoder.text_ids(text) for text in (ours, theirs)]
        common = next(
            (i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), min(map(len, ids))
        )
        if self.model is None:  # needed only where something differs
            self.model = load_base_model(self.source.base, torch.device("cpu"))
        before = self.encoder.prompt_ids([Turn("user", prompt)]) + ids[0][:common]
        with torch.inference_mode():
            logits = self.model(torch.tensor([before])).logits[0, -1].float()
        best = logits.log_softmax(-1).topk(3)
        decode = self.encoder.tokenizer.decode
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        top = {decode([i]): round(value, 6) for i, value in pairs}
        after = [decode(found[common : common + 12]) for found in ids]
        return {"after_tokens": common, "ours": after[0], "theirs": after[1], "likeliest": top}


def states(folder: Path) -> list[dict]:
    return json.loads((folder / "scenario_state.json").read_text(encoding="utf-8"))[
        "request_states"
    ]


if __name__ == "__main__":
    main()
