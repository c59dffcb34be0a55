"""The ready mixes, with made-up rows of the schema of their data sets in place of the hub's."""

import json

import data_mix_table
import pytest
from support.configs import compose_config
from support.paths import ROOT

from effchal.mixing.locate import locate
from effchal.mixing.sources import SourceReader

NAMES = ("data/CoT/gsm_train.json", "data/CoT/gsm_rft.json", "data/PoT/gsm_gpt4.json")
TASKS = ("task1_a", "task690_mmmlu_answer_generation", "task250_spl_translation_en_es")
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ROWS = {
    "dolly": [{"instruction": "q", "context": "c", "response": "a", "category": "closed_qa"}],
    "oasst": [{"conversation": CHAT, "langs": lang} for lang in ("en", "de")],
    "gsm8k_train": [{"question": "q", "answer": "a #### 1"}],
    "lima": [{"conversations": ["q", "a"], "source": "x"}],
    "platypus": [
        {"instruction": "q", "input": "", "output": "a", "data_source": source}
        for source in ("scibench", "airoboros")
    ],
    "natural_instructions": [
        {"task_name": name, "id": "1", "definition": "q", "inputs": "c", "targets": "a"}
        for name in TASKS
    ],
    "mathinstruct_human": [{"source": name, "instruction": "q", "output": "a"} for name in NAMES],
}
QUESTIONS = {"dolly": "q\n\nc", "natural_instructions": "q\n\nc"}


@pytest.mark.parametrize("mix", ["dolly", "oasst", "gsm8k_train", "birbal_like"])
def test_rows_of_the_schema_fit_a_ready_mix(tmp_path, mix):
    cfg = compose_config([f"data_mix={mix}"]).data_mix
    for name, source in cfg.sources.items():
        source.path = str(tmp_path / f"{name}.jsonl")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS[name]))
        reader = SourceReader(name, source, locate(name, source))
        (example,) = reader
        assert [turn.role for turn in example.turns] == ["user", "assistant"]
        assert example.turns[0].content == QUESTIONS.get(name, "q")
        assert reader.rows_read == len(ROWS[name])
        assert source.revision is None or len(source.revision) == 40
        assert source.homepage.startswith("https://")


@pytest.mark.integration
def test_the_table_of_the_documents_is_what_the_command_prints():
    assert "\n".join(data_mix_table.rows()) in (ROOT / "docs" / "data.md").read_text()
