"""Weights with the adapter inside give what base model and adapter gave side by side."""

import pytest
import torch
from support.exports import CPU, save_base, save_bundle, source_of

from effchal.bundle import load_bundle_model
from effchal.exporting.merged import merged_model
from effchal.model.load import evaluation_mode

pytestmark = pytest.mark.integration  # bundles are written, read and merged
IDS = torch.arange(1, 41)[None]
HEAD = ["q_proj", "lm_head"]


def logits(model):
    # evaluation_mode: or bitsandbytes repacks NF4 weights, and some CPUs then compute in bfloat16.
    with torch.inference_mode(), evaluation_mode(model):
        return model(input_ids=IDS).logits


def distance(source, dtype=torch.float32):
    expected = logits(load_bundle_model(source.bundle, source.base, CPU))
    merged = merged_model(source, dtype)
    assert {each.dtype for each in merged.parameters()} == {dtype}
    assert not any("lora" in name for name, _ in merged.named_modules())
    return (logits(merged.float()) - expected).abs().max() / expected.abs().max()


@pytest.mark.parametrize(
    "lora",
    [{"r": 4}, {"r": 8, "use_rslora": True}, {"use_dora": True}, {"dropout": 0.5}, {}],
    ids=str,
)
def test_every_kind_of_adapter_is_merged(tmp_path, lora):
    assert distance(source_of(save_bundle(tmp_path / "bundle", **lora))) < 1e-5


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_of_the_head_changes_no_embedding(tmp_path, tied):
    base = save_base(tmp_path / "base", tie_word_embeddings=tied)
    source = source_of(save_bundle(tmp_path / "bundle", base=base, target_modules=HEAD))
    assert distance(source) < 1e-5
    assert not merged_model(source, torch.float32).config.tie_word_embeddings


def test_tied_weights_stay_tied_where_the_head_has_no_adapter(tmp_path):
    base = save_base(tmp_path / "base", tie_word_embeddings=True)
    merged = merged_model(
        source_of(save_bundle(tmp_path / "bundle", base=base, r=4)), torch.float32
    )
    assert merged.config.tie_word_embeddings
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_transposed_weights_are_merged(tmp_path):
    """GPT-2's layers hold them the other way round."""
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
    base = save_base(tmp_path / "base", "GPT2", **sizes)
    assert (
        distance(source_of(save_bundle(tmp_path / "b", base=base, target_modules=["c_attn"])))
        < 1e-5
    )


def test_nf4_weights_are_dequantised_first(tmp_path):
    source = source_of(save_bundle(tmp_path / "bundle", "model.quantization=nf4", r=4))
    assert distance(source) < 1e-4


def test_a_sum_is_rounded_once(tmp_path):
    base = save_base(tmp_path / "base", dtype="bfloat16")
    source = source_of(save_bundle(tmp_path / "bundle", base=base, r=4))
    exact = merged_model(source, torch.float32).state_dict()
    rounded = merged_model(source, torch.bfloat16).state_dict()
    assert all(torch.equal(exact[name].bfloat16(), rounded[name]) for name in exact)
