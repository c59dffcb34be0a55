"""Unknown keys: those of the group, and keys of earlier versions."""

import pytest

from effchal.cli.compose import compose_config
from effchal.config import ConfigError, load_config, save_config


def test_where_no_key_is_close_the_keys_of_the_group_are_listed():
    with pytest.raises(
        ConfigError, match=r"unknown key lora\.zebra; known keys here: r, alpha, dr"
    ):
        compose_config(["lora.zebra=1"])
    with pytest.raises(ConfigError, match="unknown key zebra; known keys here: name, data, mo"):
        compose_config(["+zebra=1"])


OLD_KEYS = [
    ("data_mix.heldout_fraction", "data_mix.validation_fraction", 0.25),
    ("budget.side_work_share", "budget.periodic_work_share", 0.5),
]


def test_a_file_saved_with_old_keys_still_loads(tmp_path):
    cfg = compose_config([f"{new}={value}" for _, new, value in OLD_KEYS])
    path = tmp_path / "config.yaml"
    save_config(cfg, path)
    text = path.read_text()
    for old, new, _ in OLD_KEYS:
        text = text.replace(new.rpartition(".")[2], old.rpartition(".")[2])
    assert "heldout_fraction: 0.25" in text
    assert "side_work_share: 0.5" in text
    path.write_text(text)
    assert load_config(path) == cfg


@pytest.mark.parametrize(("old", "new", "value"), OLD_KEYS)
def test_an_old_key_that_is_typed_is_refused_with_its_new_name(old, new, value):
    with pytest.raises(ConfigError, match=f"unknown key {old}; it is {new} now"):
        compose_config([f"{old}={value}"])


def test_a_key_that_is_gone_is_left_out_of_a_saved_file_and_refused_when_typed(tmp_path):
    cfg, path = compose_config(["model=tiny"]), tmp_path / "config.yaml"
    save_config(cfg, path)
    text = path.read_text().replace("\nmodel:\n", "\nmodel:\n  attention: flash_attention_2\n")
    assert "flash_attention_2" in text
    path.write_text(text)
    assert load_config(path) == cfg
    with pytest.raises(ConfigError, match=r"unknown key model\.attention; leave it out: torch's"):
        compose_config(["model.attention=sdpa"])
