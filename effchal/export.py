"""Export a bundle for other programs: merged weights, a peft adapter, GGUF or vLLM.

What was written is read back and compared with the bundle's own engine. effchal export
outputs/train/<run> to=merged. The folder takes its place once it is whole.
"""

import sys
from pathlib import Path

from effchal.cli.compose import entry_point
from effchal.config import Config
from effchal.model_source import inference_config
from effchal.tracking.terminal import progress


@entry_point
def main(cfg: Config, overrides: list[str], output_dir: Path) -> None:
    cfg = inference_config(cfg, overrides, {"export", "name"})
    with progress("loading libraries"):
        from effchal.exporting.hub import UploadError  # imports torch, as the next one does
        from effchal.exporting.run import export

    try:
        export(cfg, output_dir)
    except UploadError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
