"""Reading, choosing and encoding rows tell how far they are."""

import dataclasses

import pytest

from effchal.config import CleanConfig
from effchal.config.choices import OnFault
from effchal.mixing.prepare import prepare_data
from effchal.mixing.select import NEAR, QUESTIONS
from effchal.tracking import progress_tasks, terminal


@pytest.fixture
def tasks(monkeypatch):
    """Every task that was begun, by what it is."""
    found = {}

    class Kept(progress_tasks.ProgressTask):
        def __post_init__(self):
            super().__post_init__()
            found[self.what] = self

    monkeypatch.setattr(terminal, "ProgressTask", Kept)
    return found


def test_every_stage_counts_its_rows(tiny_cfg, tasks):
    clean = CleanConfig(near_duplicates=OnFault.report)
    tiny_cfg.data_mix = dataclasses.replace(tiny_cfg.data_mix, clean=clean)
    prepare_data(tiny_cfg, None)
    done = {what: (task.done, task.total, task.unit) for what, task in tasks.items()}
    assert done["reading source talk"] == (85, None, "rows")
    assert done["reading source tasks"] == (92, None, "rows")
    assert done[NEAR] == (177, 177, "rows")
    assert done["encoding source talk"] == (85, 85, "rows")
    assert done["encoding source tasks"] == (92, 92, "rows")
    assert "comparing rows that may be near-duplicates" in done
    assert QUESTIONS not in done or done[QUESTIONS][2] == "rows"
    assert progress_tasks.running == []
    tasks.clear()
    prepare_data(tiny_cfg, None)
    assert tasks == {}  # all of it is in the cache


def test_a_fault_of_a_row_ends_its_stage(tiny_cfg, tmp_path, tasks):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "q", "output": "a"}\n' * 600 + "{\n")
    source = dataclasses.replace(tiny_cfg.data_mix.sources["tasks"], path=str(path))
    tiny_cfg.data_mix = dataclasses.replace(tiny_cfg.data_mix, sources={"mine": source})
    with pytest.raises(ValueError, match="line 601"):
        prepare_data(tiny_cfg, None)
    assert tasks["reading source mine"].done == 512
    assert progress_tasks.running == []
