import re

import write_config_page

from effchal.cli.compose import compose_config
from effchal.config import Config
from effchal.config.describe import describe, groups, spell
from effchal.config.nearest import known_keys

KEYS = {key.name: key for key in describe()}


def test_every_key_of_the_schema_is_described_once_with_a_meaning():
    known = known_keys(Config)
    parents = {key.rpartition(".")[0] for key in known if ".<name>." not in key}
    leaves = [key for key in known if key not in groups() and key not in parents]
    assert sorted(KEYS) == sorted(leaves)
    assert [key.name for key in KEYS.values() if not re.fullmatch(r"[A-Z].*\.", key.meaning)] == []


def test_every_group_says_what_it_is():
    assert all(about.endswith(".") for about in groups().values())


def test_type_unit_default_and_meaning_come_from_the_source():
    key = KEYS["model.max_seq_len"]
    assert (key.type, key.default, key.unit) == ("int", "2048", "tokens")
    assert key.meaning == "A longer training example is cut."
    assert KEYS["budget.hours"].unit == "h"
    assert KEYS["train.micro_batch_size"].type == "int | str"
    assert KEYS["data_mix.sources.<name>.path"].default == "required"
    assert KEYS["decoding.premature_layers"].type == "low, high or list[int]"


def test_a_comment_over_several_lines_is_read_whole():
    meaning = KEYS["budget.periodic_work_share"].meaning
    assert meaning.startswith("Largest share")
    assert meaning.endswith("Beyond it they wait.")


def test_a_choice_lists_its_values_with_their_meaning():
    assert KEYS["train.bundle"].choices == {
        "last": "",
        "best": "the weights of the lowest validation loss",
    }
    assert KEYS["model.quantization"].type == "choice or null"


def test_values_of_a_config_take_the_place_of_defaults():
    cfg = compose_config(["lora.r=7", "rules=none", "data_mix.sources.lima.weight=2"])
    found = {key.name: key.default for key in describe(cfg)}
    assert found["lora.r"] == "7"
    assert "rules.name" not in found
    assert "weight: 2" in found["data_mix.sources"]


def test_values_are_spelled_as_one_types_them():
    assert [spell(value) for value in (None, True, 2e-4, ["a", "b"], "\n\n", "")] == [
        "null",
        "true",
        "0.0002",
        "[a, b]",
        r"'\n\n'",
        "''",
    ]


def test_the_configuration_page_is_what_the_script_writes():
    written = write_config_page.PAGE.read_text(encoding="utf-8")
    assert written == write_config_page.page(), "run python scripts/write_config_page.py"
