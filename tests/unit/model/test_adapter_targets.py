"""Which modules `lora.target_modules` means, on models of many shapes."""

import json
from importlib.util import find_spec

import pytest
import torch
from support.architectures import random_model, write_folder
from support.configs import compose_config

from effchal.config import Config, ConfigError, LoraConfig, ModelConfig
from effchal.config.choices import Dtype, Quantization
from effchal.model.adapter_targets import adapter_targets
from effchal.model.load import add_adapter, load_base_model
from effchal.planning.meta_model import build_meta_model

ALL = LoraConfig(r=4, target_modules="all-linear")
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
FUSED = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
DENSE = {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
# Some names of linear layers are those of fused experts to peft.
FUSES_EXPERTS = find_spec("peft.utils.transformers_weight_conversion") is not None
LATENT = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.2, tied", ATTENTION | MLP),
        ("phi-3.5", FUSED),
        ("falcon", DENSE),
        ("gpt-2", {"c_attn", "c_proj", "c_fc"}),
        ("mamba", {"in_proj"}),  # the kernels read the other weights themselves
        ("falcon-h1", ATTENTION | MLP | {"in_proj"}),
        ("qwen2, experts", ATTENTION | MLP),  # MLP of the shared expert; not its gate
        ("gemma-4, experts", ATTENTION | MLP),  # not router.proj
        ("deepseek-v3.2", LATENT if FUSES_EXPERTS else LATENT | MLP),  # not the indexer
        ("phi-3.5-moe", ATTENTION),  # its router is a linear layer
        ("mistral-3, multimodal", ATTENTION | MLP),
    ],
)
def test_all_linear_names_the_linear_layers_of_the_decoder(name, expected):
    names = adapter_targets(random_model(name), "all-linear")
    assert {name.rpartition(".")[2] for name in names} == expected
    assert not any("vision" in name or "projector" in name for name in names)


@pytest.mark.parametrize("name", ["phi-3.5", "gpt-2", "mamba", "deepseek-v3", "qwen3-next"])
def test_each_module_that_all_linear_names_learns(name, recwarn):
    model = random_model(name)
    names = adapter_targets(model, "all-linear")
    adapted = add_adapter(model, ALL, seed=0)
    assert not [each for each in recwarn if "fan_in_fan_out" in str(each.message)]
    adapted(input_ids=torch.arange(12)[None], use_cache=False).logits.square().sum().backward()
    learning = {
        parameter_name.partition(".lora_B")[0].removeprefix("base_model.model.")
        for parameter_name, parameter in adapted.named_parameters()
        if "lora_B" in parameter_name and parameter.grad.abs().sum() > 0
    }
    assert learning == set(names)


@pytest.mark.integration
@pytest.mark.parametrize("quantization", [None, Quantization.nf4])
@pytest.mark.parametrize("name", ["phi-3.5", "deepseek-v3"])
def test_a_plan_and_a_run_adapt_the_same_modules(name, quantization, tmp_path):
    folder = str(write_folder(name, tmp_path))
    model = ModelConfig(
        name=folder, dtype=Dtype.float32, quantization=quantization, max_seq_len=256
    )
    planned = build_meta_model(Config(model=model, lora=ALL), torch.device("cpu"))
    loaded = add_adapter(load_base_model(model, torch.device("cpu")), ALL, seed=0)
    assert shapes_of_adapter(planned) == shapes_of_adapter(loaded) != {}


def shapes_of_adapter(model):
    return {name: p.shape for name, p in model.named_parameters() if p.requires_grad}


def test_an_adapter_is_saved_with_the_names_that_all_linear_came_to(tmp_path):
    add_adapter(random_model("glm-4"), ALL, seed=0).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert set(saved) == ATTENTION | {"gate_up_proj", "down_proj"}


@pytest.mark.skipif(not FUSES_EXPERTS, reason="this peft takes no names for experts")
def test_names_that_peft_takes_for_experts_are_refused():
    with pytest.raises(ConfigError, match=r"target_modules has \['gate_proj'\].*\['k.*'o_proj'"):
        adapter_targets(random_model("deepseek-v3"), ["o_proj", "gate_proj"])


def test_a_layer_that_takes_no_adapter_is_refused():
    with pytest.raises(ConfigError, match=r"lora.target_modules=\['out_proj'\]: .*incompatible"):
        add_adapter(random_model("mamba"), LoraConfig(target_modules=["out_proj"]), seed=0)


def test_the_word_can_be_typed_and_is_the_default():
    for overrides in ([], ["lora=attention", "lora.target_modules=all-linear"]):
        assert compose_config(overrides).lora.target_modules == "all-linear"
    with pytest.raises(ConfigError, match=r"must be all-linear or a list of names.*'q_proj'"):
        compose_config(["lora.target_modules=q_proj"])
