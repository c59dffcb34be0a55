"""Checkpoints as people publish them: other dtypes, end tokens, towers, pickles."""

import json

import pytest
import torch
import transformers
from support.architectures import make, random_model, write_folder

from effchal.config import ModelConfig
from effchal.config.choices import Dtype
from effchal.decoding.engine import Engine
from effchal.model.load import load_base_model
from effchal.model.tokenizer import ModelError, load_tokenizer
from effchal.planning.meta_model import shape_config

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 60, 7, 99, 12, 31]])


def config_of(folder):
    return ModelConfig(name=str(folder), max_seq_len=128, dtype=Dtype.float32)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@torch.no_grad()
def logits_of(model):
    return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize(("stored", "told"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_weights_keep_every_bit_whatever_config_json_says_of_their_dtype(tmp_path, stored, told):
    model = random_model("qwen3").to(getattr(torch, stored))
    model.save_pretrained(tmp_path)
    change(tmp_path / "config.json", dtype=told)
    loaded = load_base_model(config_of(tmp_path), CPU)
    for one, other in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one.float(), other)


def test_a_scale_of_embeddings_is_not_rounded_to_the_stored_dtype(tmp_path):
    random_model("gemma-3").bfloat16().save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="sdpa"
    )
    ours = load_base_model(config_of(tmp_path), CPU)
    assert torch.equal(logits_of(ours), logits_of(theirs.eval()))


def test_end_tokens_of_generation_config_end_an_answer(tmp_path):
    folder = write_folder("llama-3.1", tmp_path / "model")
    cfg = config_of(folder)
    (before,) = answers(cfg)
    end = before.ids[2]
    change(folder / "generation_config.json", eos_token_id=[end, 256])
    (after,) = answers(cfg)
    assert after.finish_reason == "stop"
    assert after.ids == before.ids[: before.ids.index(end) + 1]


def answers(cfg):
    from effchal.decoding.contrast import Greedy
    from effchal.decoding.sampling import SamplingParams

    engine = Engine(load_base_model(cfg, CPU), load_tokenizer(cfg))
    params = SamplingParams(max_new_tokens=8, contrast=Greedy())
    return [engine.complete([1, 2, 3], params)]


@pytest.mark.parametrize("name", ["gemma-3, multimodal", "mistral-3, multimodal"])
def test_a_multimodal_checkpoint_loads_as_its_text_model(tmp_path, name):
    folder = write_folder(name, tmp_path / "model")
    whole = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    ours = load_base_model(config_of(folder), CPU)
    assert torch.equal(logits_of(ours), logits_of(whole.eval()))
    assert not any("vision" in part for part, _ in ours.named_modules())


def test_a_model_without_a_text_generator_is_refused(tmp_path):
    make("qwen2.5-vl").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is a qwen2_5_vl, .*no causal language model"):
        shape_config(config_of(tmp_path))


def test_plan_refuses_pickled_weights_as_training_does(tmp_path):
    make("llama-3.1").save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    for load in (shape_config, lambda cfg: load_base_model(cfg, CPU)):
        with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle"):
            load(config_of(tmp_path))
