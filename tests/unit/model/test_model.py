import dataclasses
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from support.paths import ROOT, needs_smollm2

from effchal.config import ConfigError, LoraConfig, ModelConfig
from effchal.config.choices import Dtype, Quantization
from effchal.kernels.attention import packed_hidden_states
from effchal.model.load import add_adapter, base_model_fingerprint, evaluation_mode, load_base_model
from effchal.model.structure import backbone, checkpoint_layers, head, layers_of, own_attention
from effchal.model.tiny import tiny_folder
from effchal.model.tokenizer import ModelError, base_model_path, load_tokenizer, pin_revision

TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
CPU = torch.device("cpu")
IDS = torch.arange(1, 21)[None]
POSITIONS = torch.arange(20)[None]


def hidden(model):
    with torch.no_grad():
        return packed_hidden_states(model, IDS, POSITIONS, (20,))


def test_the_tiny_model_is_the_same_each_time():
    assert torch.equal(hidden(load_base_model(TINY, CPU)), hidden(load_base_model(TINY, CPU)))
    assert load_tokenizer(TINY).decode(load_tokenizer(TINY)("héllo").input_ids) == "héllo"


def test_backbone_and_head_make_the_models_logits():
    model = load_base_model(TINY, CPU)
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits
        assert torch.equal(head(model)(hidden(model)), expected)
        adapted = add_adapter(model, LoraConfig(target_modules=["q_proj", "lm_head"]), seed=0)
        assert torch.equal(head(adapted)(hidden(adapted)), expected)


def test_nothing_but_the_adapter_trains_and_it_starts_as_the_base_model():
    model = load_base_model(TINY, CPU)
    before = hidden(model)
    adapted = add_adapter(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]), seed=0)
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    assert torch.equal(hidden(adapted), before)


@pytest.mark.parametrize(
    "name", ["gradient_checkpointing_enable", "activation_checkpointing_enable"]
)
def test_layers_are_checkpointed_by_the_name_that_transformers_has(name):
    called = []
    checkpoint_layers(SimpleNamespace(**{name: lambda: called.append(name)}))
    assert called == [name]


def test_checkpointed_layers_keep_their_input_alone():
    model = load_base_model(TINY, CPU).train()
    checkpoint_layers(model)
    assert all(layer.gradient_checkpointing for layer in layers_of(model))


def test_the_adapters_seed_decides_its_weights():
    def weights(seed):
        model = add_adapter(load_base_model(TINY, CPU), LoraConfig(), seed)
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("switch", ["use_rslora", "use_dora"])
def test_rslora_and_dora_train(switch):
    model = add_adapter(load_base_model(TINY, CPU), LoraConfig(**{switch: True}), seed=0)
    packed_hidden_states(model, IDS, POSITIONS, (20,)).sum().backward()
    config = model.peft_config["default"]
    assert getattr(config, switch)
    gradients = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert gradients
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_nf4_is_four_bit_close_to_the_weights_and_trains():
    cfg = dataclasses.replace(TINY, quantization=Quantization.nf4)
    model = load_base_model(cfg, CPU)
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    full, quantised = hidden(load_base_model(TINY, CPU)), hidden(model)
    distance = (full - quantised).norm() / full.norm()
    assert 0 < distance < 0.5


def test_nf4_gets_gradients_also_after_a_validation():
    cfg = dataclasses.replace(TINY, quantization=Quantization.nf4)
    adapted = add_adapter(
        load_base_model(cfg, CPU), LoraConfig(target_modules=["q_proj", "down_proj"]), seed=0
    )
    adapted.train()
    with evaluation_mode(adapted):
        hidden(adapted)
        assert not backbone(adapted).layers[0].training
    packed_hidden_states(adapted, IDS, POSITIONS, (20,)).square().sum().backward()
    gradients = [p.grad for name, p in adapted.named_parameters() if "lora_B" in name]
    assert len(gradients) == 4
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_weights_are_those_of_the_library_in_every_dtype(dtype):
    from transformers import AutoModelForCausalLM

    ours = load_base_model(dataclasses.replace(TINY, dtype=dtype), CPU)
    theirs = AutoModelForCausalLM.from_pretrained(
        base_model_path(TINY), dtype=getattr(torch, dtype.value)
    )
    for (name, one), (other_name, other) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert (name, one.dtype) == (other_name, other.dtype)
        assert torch.equal(one, other)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(one, other)


@needs_smollm2
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_needs_little_more_than_the_weights_and_their_mapped_file():
    command = [sys.executable, str(ROOT / "benchmarks" / "bench_start.py"), "--load", "float32"]
    measured = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    assert measured["weights_mib"] > 500
    assert measured["peak_over_weights"] < 1.5 + 0.2  # the file is half as large as float32


@pytest.mark.integration
@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"]])
def test_help_and_config_load_no_heavy_library(flags):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['effchal.train', *{flags}]\n"
        "try:\n    runpy.run_module('effchal.train', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "heavy = ('torch', 'transformers', 'peft', 'datasets', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    assert "activation_checkpointing" in result.stdout


@pytest.mark.integration
def test_help_tells_the_purpose_the_choices_and_the_values_with_what_was_typed():
    command = [sys.executable, "-m", "effchal.train", "--help", "model=tiny", "lora.r=3"]
    shown = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for each in (
        "Train one adapter",
        "  lora=<all_linear | attention | none>\n",
        "  model.name=builtin:tiny  (str)\n",
        "  lora.r=3  (int)\n",
    ):
        assert each in shown
    wrong = subprocess.run([*command, "lora.R=3"], cwd=ROOT, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.startswith("error: unknown key lora.R")) == (2, True)


def test_a_hub_id_without_a_commit_gets_the_newest_one_with_a_warning(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder, commit = tmp_path / "models--org--mine", "1f" * 20
    shutil.copytree(tiny_folder(), folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    cfg = ModelConfig(name="org/mine")
    pin_revision(cfg)
    assert cfg.revision == commit
    assert f"to repeat this with the same model, add model.revision={commit}" in caplog.text
    for given in (ModelConfig(name="org/mine", revision="abc"), ModelConfig(name=str(tmp_path))):
        before = given.revision
        pin_revision(given)
        assert given.revision == before
    with pytest.raises(ModelError, match=r"cannot load model\.name=org/none at revision main: .+"):
        pin_revision(ModelConfig(name="org/none"))


def test_unknown_target_modules_are_named_beside_the_known():
    with pytest.raises(ConfigError, match=r"lora\.target_modules has \['query'\].*'q_proj'"):
        add_adapter(load_base_model(TINY, CPU), LoraConfig(target_modules=["query"]), seed=0)


def test_a_model_without_sdpa_attends_by_its_own_code():
    from transformers import BloomForCausalLM, LlamaForCausalLM

    assert own_attention(LlamaForCausalLM) == "sdpa"
    assert own_attention(BloomForCausalLM) == "eager"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", r"model\.name: no folder \./nowhere .*give model\.name=<folder>"),
        ("outputs/models/nowhere/smollm2_135m", r"run `python scripts/fetch\.py smollm2_135m`"),
        ("someone/some-model", r"is a hub id and needs model\.revision=<commit>"),
    ],
)
def test_a_model_that_is_not_there_is_named(name, message):
    with pytest.raises(ModelError, match=message):
        base_model_path(ModelConfig(name=name))


def test_an_unreachable_hub_is_an_error_with_the_way_out():
    with pytest.raises(
        ModelError,
        match=r"(?s)cannot load model\.name=someone/some-model at rev.*model\.name=<folder>",
    ):
        load_tokenizer(ModelConfig(name="someone/some-model", revision="0" * 40))


def test_a_folder_without_tokenizer_json_is_refused(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(base_model_path(TINY), copy)
    (copy / "tokenizer.json").rename(copy / "tokenizer.model")
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        load_tokenizer(dataclasses.replace(TINY, name=str(copy)))


def test_more_tokens_than_the_model_has_positions_are_refused():
    with pytest.raises(
        ModelError, match=r"model\.max_seq_len=9000 is more than this model's 8192 positions"
    ):
        load_base_model(dataclasses.replace(TINY, max_seq_len=9000), CPU)


def test_the_fingerprint_tells_models_apart(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(base_model_path(TINY), copy)
    moved = dataclasses.replace(TINY, name=str(copy))
    assert base_model_fingerprint(moved) == base_model_fingerprint(TINY)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert base_model_fingerprint(moved) != base_model_fingerprint(TINY)
    # The same weights once more, as some repositories have them beside those that are loaded.
    (copy / "consolidated.safetensors").write_bytes(weights[:-1])
    changed = base_model_fingerprint(moved)
    (copy / "consolidated.safetensors").unlink()
    assert base_model_fingerprint(moved) == changed
    assert base_model_fingerprint(ModelConfig(name="someone/some-model", revision="0" * 40)) is None
