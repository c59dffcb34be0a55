"""Train one adapter inside a budget of time and memory, and leave it in a bundle."""

from pathlib import Path

from effchal.cli import entry_point
from effchal.config import Config


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    from effchal.training.loop import start  # torch comes with it; --help and --cfg job do without

    start(cfg, overrides, output_dir)


if __name__ == "__main__":
    main()
