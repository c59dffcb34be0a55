"""What ends an evaluation: other data, bad settings, logits that are not finite."""

import json
import shutil

import pytest
from support.own_questions import SWEEP, evaluation_config

from effchal.config import ConfigError
from effchal.evaluation.run import run
from effchal.evaluation.scenarios.types import ScenarioError
from effchal.kernels.cpu_linear import head_product
from effchal.model.tiny import tiny_folder


@pytest.mark.integration
def test_other_data_or_another_model_is_not_mixed_in(data, tmp_path):
    cfg = evaluation_config(data[:1])
    run(cfg, tmp_path / "out")
    data[0].write_text(data[0].read_text().replace("What is 3", "Who is 3"))
    with pytest.raises(ScenarioError, match="is not the one recorded; bring the data back"):
        run(cfg, tmp_path / "out")
    shutil.copytree(tiny_folder(), tmp_path / "other")
    shape = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(shape | {"rms_norm_eps": 1e-3}))
    other = evaluation_config(data[:1], f"model.name={tmp_path / 'other'}")
    with pytest.raises(ConfigError, match=r"begun with another model \(fingerprint differ"):
        run(other, tmp_path / "out")


@pytest.mark.integration
def test_what_is_wrong_comes_up_before_anything_is_written(data, tmp_path):
    for overrides, message in (
        (
            ["decoding=dola_low", "decoding.premature_layers=[2]"],
            r"decoding\.premature_layers has \[2\].*0\.\.1",
        ),
        (
            ["decoding=dola_low", "sweep.premature_layers=[[0],[7]]"],
            r"sweep\.premature_layers\[1\] has \[7\]",
        ),
        (["scenario.entries=[]"], r"scenario\.entries is empty"),
        (["scenario.entries=[mmlu]"], "mmlu"),
        (["scenario.entries=[gsm,gsm]"], "scenario.entries has gsm more than once"),
        (["sweep.premature_layers=[[0]]"], "needs decoding.method=dola or sled"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(evaluation_config(data, *overrides), tmp_path / "out")
    data[1].write_text(data[1].read_text() + '{"prompt": 5}\n')
    with pytest.raises(ScenarioError, match=r"choices\.jsonl.*6.*prompt"):
        run(evaluation_config(data), tmp_path / "out")
    long = {"prompt": "x" * 9000, "choices": ["a", "b"], "correct": [0]}
    data[1].write_text(json.dumps(long) + "\n")
    with pytest.raises(
        ScenarioError, match="needs 9001 tokens, prompt and answer; this model holds 8192"
    ):
        run(evaluation_config(data[1:]), tmp_path / "late")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "late").exists()


@pytest.mark.integration
@pytest.mark.parametrize(
    "good", [14, 24]
)  # products before the first bad one: in the texts, in the choices
def test_logits_that_are_no_numbers_end_it_and_lose_nothing(data, tmp_path, monkeypatch, good):
    calls = []

    def breaking(head):
        product = head_product(head)

        def breaks(states):
            calls.append(1)
            return product(states) * (float("nan") if len(calls) > good else 1)

        return breaks

    monkeypatch.setattr("effchal.decoding.lm_head.head_product", breaking)
    with pytest.raises(FloatingPointError, match=r"jsonl:path=.*one of .*logits are not finite"):
        run(evaluation_config(data, *SWEEP), tmp_path / "out")
    kept = (tmp_path / "out" / "instances.jsonl").read_bytes()
    assert 0 < kept.count(b"\n") < 10
    assert json.loads((tmp_path / "out" / "results.json").read_text())["status"] == "running"
    monkeypatch.undo()
    run(evaluation_config(data, *SWEEP), tmp_path / "out")
    assert (tmp_path / "out" / "instances.jsonl").read_bytes().startswith(kept)
