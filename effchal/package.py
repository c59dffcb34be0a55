"""Write the bundle of a plain base model, e.g. as the control of an evaluation."""

import logging
from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.config import Config, ConfigError
from effchal.model.tokenizer import load_tokenizer, pin_revision, require_folder
from effchal.runs import is_bundle


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    if cfg.lora is not None:
        raise ConfigError(
            "a run writes the bundle of its adapter itself; for the plain base model add lora=none"
        )
    if is_bundle(output_dir / "bundle"):
        raise ConfigError(f"{output_dir} holds a bundle already; take another folder")
    require_folder(cfg.model)
    from effchal.bundle import write_bundle  # imports torch

    pin_revision(cfg.model)
    write_bundle(output_dir / "bundle", cfg, None, load_tokenizer(cfg.model))
    logging.getLogger("effchal.package").info("bundle: %s", output_dir / "bundle")


if __name__ == "__main__":
    main()
