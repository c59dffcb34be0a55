"""Hand in a run of a small model from an empty folder, and reproduce it from there.

    python scripts/check_submit.py <folder> [more overrides of effchal submit]

<folder> must not be there. The quick start's training runs first, then the server, the checks of
its rules and the scores. Then the hand-in is reproduced from scratch, and once more with a random
adapter in place of the trained one. Prints what each command said at its end; the exit status is
1 if the reproduction fails, or if the random adapter passes as the trained one.

Without overrides the questions are examples/questions.jsonl. About 10 minutes on two idle cores.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from effchal.bundle import sha256
from effchal.submission.context import write_checksums

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = f"scenario.data=['{ROOT / 'examples' / 'questions.jsonl'}']"
WORDS = [
    # A model of this size goes on behind the letter of a multiple choice: its line ends the answer.
    *("experiment=quickstart", "budget.hours=0.5", "decoding.end_at_first_line=true"),
    f"model.name={ROOT / 'outputs' / 'models' / 'smollm2_135m'}",
]


def effchal(folder, *words):
    """Run a command in a folder; its exit code, and what it printed on standard output."""
    print(f"\n$ effchal {' '.join(words)}", flush=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "effchal", *words]
    found = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    print(f"exit code {found.returncode} after {time.monotonic() - start:.0f} s", flush=True)
    return found.returncode, found.stdout


def with_random_adapter(submission, copy):
    """A copy whose adapter has random weights, and digests that fit."""
    shutil.copytree(submission, copy)
    bundle = copy / "bundle"
    path = bundle / "adapter" / "adapter_model.safetensors"
    torch.manual_seed(0)
    weights = {name: 0.05 * torch.randn_like(each) for name, each in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][str(path.relative_to(bundle))] = sha256(path)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    write_checksums(copy)
    return copy


def ending(text):
    """The table of a reproduction."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if "handed in" in line), len(lines))
    return "\n".join(lines[first:])


def main():
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True)
    asked = sys.argv[2:] or ["scenario.entries=[]", QUESTIONS]
    code, _ = effchal(folder, "submit", *WORDS, *asked, "hydra.run.dir=handed_in")
    submission = folder / "handed_in" / "submission"
    if code:
        sys.exit("error: submit failed")
    sums = ["sha256sum", "--quiet", "-c", "SHA256SUMS"]
    subprocess.run(sums, cwd=submission, check=True)
    size = sum(path.stat().st_size for path in submission.rglob("*") if path.is_file())
    print(f"{sum(1 for _ in submission.rglob('*'))} files and folders, {size / 1e6:.1f} MB")
    places = [word for word in asked if word.startswith("scenario.path=")]
    again, told = effchal(folder, "reproduce", str(submission), *places, "hydra.run.dir=again")
    print(ending(told))
    other = with_random_adapter(submission, folder / "random")
    words = ("reproduce", str(other), "retrain=false", *places, "hydra.run.dir=of_random")
    faulty, told = effchal(folder, *words)
    print(ending(told))
    if again or not faulty:
        sys.exit("error: not as it should be")


if __name__ == "__main__":
    main()
