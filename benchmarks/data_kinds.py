"""Each kind of data: declared in a line, trained on, served; and what is said of a wrong version.

python benchmarks/data_kinds.py

The first table is that of docs/data.md. It takes about a minute.
"""

import os
import sys
import tempfile
from pathlib import Path

from common import ROOT

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

from support.data_kind_runs import refusal, train_and_serve  # noqa: E402
from support.data_kinds import KINDS, declared  # noqa: E402

HEAD = "| data | steps | loss | prompt ids, served as trained | a wrong version | seconds |"


def main() -> int:
    """0 if all ids of served prompts are those of training."""
    print("\n".join([*declared(), "", HEAD, "|---|---|---|---|---|---|"]))
    all_same = True
    with tempfile.TemporaryDirectory() as parts:
        os.environ["XDG_CACHE_HOME"] = parts
        folders = [Path(tempfile.mkdtemp(dir=parts)) for _ in KINDS]
        kinds = list(zip(KINDS.items(), folders, strict=True))
        said = [refusal(kind, folder / "wrong") for (_, kind), folder in kinds]  # before torch
        for ((name, kind), folder), (message, seconds) in zip(kinds, said, strict=True):
            found = train_and_serve(kind, folder / "right")
            counts = ", ".join(str(len(prompt)) for prompt in found.prompts)
            ids = counts if found.same else f"not the same: {counts}"
            record = found.record
            cells = (name, record["step"], f"{record['train_loss']:.3f}", ids, f"`{message}`")
            print(f"| {' | '.join(map(str, cells))} | {seconds:.2f} |", flush=True)
            all_same &= found.same
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
