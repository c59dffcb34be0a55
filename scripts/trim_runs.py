"""Copy run folders without weights, checkpoints and logs: what a report reads, and no more.

python scripts/trim_runs.py outputs/train/<sweep> outputs/evaluate/<run> --into <folder>
"""

import argparse
import json
import shutil
from pathlib import Path

from effchal.reporting.watch import FILES

KEPT = {*FILES, "bundle/manifest.json"} - {".lock"}


def trim(source: Path, target: Path, instances: int) -> int:
    """Copy one folder and all below it; returns the bytes that it has then."""
    size = 0
    for path in sorted(source.rglob("*")):
        name = path.name if path.parent.name != "bundle" else f"bundle/{path.name}"
        if path.is_file() and name in KEPT:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            if name == "instances.jsonl":
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                place.write_text("".join(lines[:instances]), encoding="utf-8")
            else:
                shutil.copyfile(path, place)
            size += place.stat().st_size
    return size


def without_own_paths(folder: Path, typed: list[str]) -> None:
    """Write `<home>` for each of the given path beginnings, in every file."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "manifest.json":  # whose digest tells what was scored
            text = path.read_text(encoding="utf-8")
            for each in typed:
                text = text.replace(json.dumps(each)[1:-1], "<home>").replace(each, "<home>")
            path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--instances", type=int, default=60, help="of each evaluation; default: 60")
    parser.add_argument(
        "--hide", nargs="*", default=[], help="beginnings of paths to write as <home>"
    )
    args = parser.parse_args()
    for folder in args.folders:
        target = args.into / folder.name
        size = trim(folder, target, args.instances)
        without_own_paths(target, args.hide)
        print(f"{target}: {size / 1000:,.0f} kB")


if __name__ == "__main__":
    main()
