"""Build the data mix and tell what is in it.

Takes the same keys as `effchal train`; needs no GPU and no weights. Leaves mix.md, mix.json and
mix.png. `effchal data show` prints examples as the model sees them. `effchal data diff A B`
compares the mixes of two folders, and ends with exit code 1 where they differ.
"""

import os
import sys
from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.cli.failures import one_line_errors
from effchal.config import Config, ConfigError


def main() -> None:
    word, rest = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if word == "diff" and not {"-h", "--help"} & set(rest):
        return diff(rest)
    return show() if word == "show" else build()


@entry_point
def build(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    from effchal.model.tokenizer import hide_torch

    hide_torch()
    from effchal.mixing.picture import draw
    from effchal.mixing.prepare import prepare_data

    prepare_data(cfg, output_dir)
    draw(output_dir)
    head = (output_dir / "mix.md").read_text(encoding="utf-8").partition("\n## ")[0]
    print(f"{head.rstrip()}\n\nmore: {output_dir / 'mix.md'}")


@entry_point
def show(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    sources = cfg.data_mix.sources
    if cfg.show.source is not None and cfg.show.source not in sources:
        raise ConfigError(f"show.source={cfg.show.source}: the sources are {', '.join(sources)}")
    from effchal.model.tokenizer import hide_torch

    hide_torch()
    from effchal.mixing.prepare import prepare_data
    from effchal.mixing.show import COLOURED, PLAIN, lines
    from effchal.model.tokenizer import load_tokenizer

    data = prepare_data(cfg, output_dir)
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in lines(cfg, data, load_tokenizer(cfg.model), COLOURED if in_colour else PLAIN):
        print(line)


def diff(folders: list[str]) -> None:
    with one_line_errors():
        if len(folders) != 2:
            raise ConfigError("effchal data diff takes two folders that hold a mix.json")
        from effchal.mixing.compare import compare

        same, text = compare(*folders)
        print(text)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
