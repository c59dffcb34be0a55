"""Rows per second and memory of building a data mix: bench_data.py [--rows 20000 100000]

Makes files of instruction rows of about 1.4 kB out of the sentences of the texts given by --texts
(the shipped examples by default), and prepares each in a process of its own: built, and again from
the cache. One JSON line each. `resident_mib` is the most that the process and its workers held at a
time, shared pages counted once for each; `own_mib` what the process alone held, and nobody else.
--against measures the package of another checkout, too. --engine ray builds over Ray Data, a file
for each 20,000 rows.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
from common import ROOT, SMOLLM2, print_result

SHIPPED = sorted((ROOT / "effchal" / "mixing" / "quickstart").glob("*.jsonl"))
CHARACTERS = 1400  # of a row
SHARD = 20_000  # rows of a file for Ray
PREPARE = """
import sys, tempfile, time
from pathlib import Path
from effchal.cli.compose import compose_config
cfg = compose_config(sys.argv[1:])
try:
    from effchal.model.tokenizer import hide_torch
    hide_torch()
except ImportError:
    pass
from effchal.mixing.prepare import prepare_data
begun = time.time()
data = prepare_data(cfg, Path(tempfile.mkdtemp()))
print("PREPARED", time.time() - begun, data.order.steps)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--texts", type=Path, nargs="+", default=SHIPPED)
    parser.add_argument("--model", default=str(SMOLLM2))
    parser.add_argument("--near-duplicates", action="store_true")
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    args = parser.parse_args()
    sentences = sorted(set(sentences_of(args.texts)))
    with tempfile.TemporaryDirectory() as folder:
        for count in args.rows:
            path = Path(folder) / f"rows_{count}"
            path.mkdir()
            shard = SHARD if args.engine == "ray" else count
            for first in range(0, count, shard):
                file = path / f"{first:010}.jsonl"
                write_rows(file, first, min(first + shard, count), sentences)
            mb = sum(file.stat().st_size for file in path.iterdir()) / 1e6
            size = {"rows": count, "file_mb": round(mb)}
            keys = [
                f"model.name={args.model}",
                "prompt=instruction",
                "data_mix.sources.bench.format=platypus",
                f"data_mix.sources.bench.path={path if shard < count else file}",
            ]
            if args.against:
                other = [*keys, "data_mix=quickstart", "~data_mix.sources.quickstart_conversations"]
                other.append("~data_mix.sources.quickstart_instructions")
                tell(size | {"code": "other"}, args.against, other, folder)
            keys += ["data_mix=own", f"data_mix.engine={args.engine}"]
            if args.near_duplicates:
                keys.append("data_mix.clean.near_duplicates=drop")
            for code in ("built", "from the cache"):
                tell(size | {"code": code}, ROOT, keys, folder)
            shutil.rmtree(path)


def sentences_of(paths: Iterable[Path]) -> Iterable[str]:
    """The sentences of all texts in some JSON lines."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            for value in json.loads(line).values():
                for text in value if isinstance(value, list) else [value]:
                    yield from re.findall(r"[^.!?\n]{20,}[.!?]", text)


def write_rows(path: Path, first: int, end: int, sentences: list[str]) -> None:
    """Rows of random sentences, none equal to another; a third of each is the question."""
    draw = random.Random(first)
    with path.open("w", encoding="utf-8") as file:
        for number in range(first, end):
            parts: list[str] = []
            while sum(map(len, parts)) < CHARACTERS:
                parts.append(draw.choice(sentences).strip())
            third = max(1, len(parts) // 3)
            question, answer = f"{number}: " + " ".join(parts[:third]), " ".join(parts[third:])
            row = {"instruction": question, "input": "", "output": answer}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def tell(result: dict, code: Path, keys: list[str], folder: str) -> None:
    """Prepare in a process of its own, and print what it took."""
    environment = os.environ | {"PYTHONPATH": str(code), "XDG_CACHE_HOME": folder}
    begun = time.time()
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE, *keys], env=environment, cwd=code, stdout=subprocess.PIPE
    )
    resident = own = 0

    def watch() -> None:
        nonlocal resident, own
        while process.poll() is None:
            resident = max(resident, resident_bytes(process.pid))
            with contextlib.suppress(psutil.Error):
                own = max(own, psutil.Process(process.pid).memory_full_info().uss)
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0].decode()
    watcher.join()
    if process.returncode:
        sys.exit(f"preparing ended with code {process.returncode}")
    prepared_s = float(re.search(r"PREPARED ([\d.]+)", output)[1])  # type: ignore[index]
    result |= {
        "process_s": round(time.time() - begun, 1),
        "prepare_s": round(prepared_s, 1),
        "rows_per_s": round(result["rows"] / prepared_s),
        "resident_mib": round(resident / 2**20),
        "own_mib": round(own / 2**20),
    }
    print_result(result)


def resident_bytes(pid: int) -> int:
    """Of a process and all that it started."""
    total = 0
    try:
        first = psutil.Process(pid)
        for each in [first, *first.children(recursive=True)]:
            total += each.memory_info().rss
    except psutil.Error:
        pass
    return total


if __name__ == "__main__":
    main()
