"""A run's mirror as event files of TensorBoard, in its folder `tensorboard`.

tensorboardX writes them: one small package. torch.utils.tensorboard would need all of
tensorboard, with grpc and a server, and that only where the files are looked at.
"""

from pathlib import Path
from typing import Any

from effchal.tracking.names import SAMPLES, STEP, ChartRows

FOLDER = "tensorboard"


class TensorBoardMirror:
    """Writes each record at its training step."""

    def __init__(self, run_dir: Path, step: int) -> None:
        """Go on at `step`. What a killed process wrote of later steps is hidden by TensorBoard."""
        from tensorboardX import SummaryWriter

        self._rows = ChartRows()
        # Records of `step` itself are kept, but for those of a beginning without a checkpoint.
        first = step + 1 if step > 0 else 0
        self._writer = SummaryWriter(
            str(run_dir / FOLDER),
            purge_step=first,
            flush_secs=10,
            filename_suffix=f".from_{step:08d}",  # the rest of the name is the second
        )
        if step == 0:
            self._writer.add_text("config", fenced((run_dir / "config.yaml").read_text()), 0)

    def seen(self, record: dict[str, Any]) -> None:
        """Count a record of an earlier process."""
        self._rows.row(record)

    def log(self, record: dict[str, Any]) -> None:
        row, step = self._rows.row(record), int(record["step"])
        for name, value in row.items():
            if name != STEP:
                self._writer.add_scalar(name, value, step)
        for number, sample in enumerate(record.get("samples", []), 1):
            text = fenced(f"{sample['prompt']}\n---\n{sample['completion']}")
            self._writer.add_text(f"{SAMPLES}/{number}", text, step)

    def close(self) -> None:
        self._writer.close()


def fenced(text: str) -> str:
    """Markdown that shows the text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
