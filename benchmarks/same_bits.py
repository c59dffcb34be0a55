"""Show that a change keeps every bit of 20 losses and of 60 answers.

The losses are of 20 training steps, the answers of 20 prompts by greedy, DoLa and SLED.

    python benchmarks/same_bits.py --out before.json --checkout <folder of the code before>
    python benchmarks/same_bits.py --out after.json --against before.json

It drives the command line and HTTP only, so it runs on any two versions. It needs the real
small model (python scripts/fetch.py smollm2_135m) and takes about 5 minutes on 2 idle cores.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "outputs" / "models" / "smollm2_135m"
STEPS, ANSWERS, NEW_TOKENS = 20, 20, 24
DECODINGS = {
    "greedy": {"method": "greedy"},
    "dola": {"method": "dola", "premature_layers": "high"},
    "sled": {"method": "sled", "premature_layers": "low"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, default=ROOT, help="folder of the code to run")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--against", type=Path, help="JSON file of another version to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        found = {"losses": train(options.checkout, run_dir)}
        found["answers"] = answers(options.checkout, run_dir)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found['losses'])} losses and {len(found['answers'])} answers in {options.out}")
    if options.against:
        compare(json.loads(options.against.read_text()), found)


def command(checkout: Path, module: str, *overrides: str) -> tuple[list[str], dict[str, str]]:
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "2"}
    return [sys.executable, "-m", f"effchal.{module}", *overrides], environment


def train(checkout: Path, run_dir: Path) -> list[float]:
    overrides = [
        *("experiment=quickstart", f"model.name={MODEL}", f"train.max_steps={STEPS}"),
        *("budget.hours=4", "lora.r=8", f"hydra.run.dir={run_dir}"),
    ]
    arguments, environment = command(checkout, "train", *overrides)
    subprocess.run(arguments, env=environment, cwd=checkout, check=True, stdout=subprocess.DEVNULL)
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if "loss" in record]


def answers(checkout: Path, run_dir: Path) -> dict[str, list]:
    """Tokens with their log-probabilities, by decoding and prompt."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    overrides = [f"bundle={run_dir}/bundle", f"serve.port={url.rpartition(':')[2]}"]
    overrides += ["serve.allow_decoding_override=true", f"hydra.run.dir={run_dir}"]
    arguments, environment = command(checkout, "serve", *overrides)
    server = subprocess.Popen(arguments, env=environment, cwd=checkout, stdout=subprocess.DEVNULL)
    try:
        while not is_ready(url):
            assert server.poll() is None, "the server ended before it was ready"
            time.sleep(0.5)
        found = {}
        for name, decoding in DECODINGS.items():
            for number, question in enumerate(questions()):
                body = {"prompt": question, "max_new_tokens": NEW_TOKENS, "decoding": decoding}
                request = urllib.request.Request(f"{url}/process", json.dumps(body).encode())
                tokens = json.load(urllib.request.urlopen(request))["tokens"]
                found[f"{name} {number}"] = [[token["text"], token["logprob"]] for token in tokens]
        return found
    finally:
        server.terminate()
        server.wait()


def is_ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/ready").status == 200
    except OSError:
        return False


def questions() -> list[str]:
    file = next(ROOT.glob("effchal/*/quickstart/instructions.jsonl"))
    rows = map(json.loads, file.read_text().splitlines())
    return [row["instruction"] for row in rows][:ANSWERS]


def compare(before: dict, after: dict) -> None:
    """Exit with 1 unless all numbers and texts are the same to the last bit."""
    losses = sum(a == b for a, b in zip(before["losses"], after["losses"], strict=True))
    print(f"losses equal to the bit: {losses} of {len(before['losses'])}")
    same = sum(after["answers"].get(key) == value for key, value in before["answers"].items())
    print(f"answers equal, tokens and log-probabilities: {same} of {len(before['answers'])}")
    sys.exit(int(losses < len(before["losses"]) or same < len(before["answers"])))


if __name__ == "__main__":
    main()
