"""The admission check takes the fast way where it is right, and no other."""

import dataclasses

import pytest
import torch
from support.architectures import make, random_model

from effchal.admission import trial
from effchal.admission.admit import TrainingAdmission, admit, admit_architecture, known
from effchal.admission.check import Check
from effchal.admission.measure import COPY, ITSELF
from effchal.admission.small_copy import SWITCH, WINDOW, small_copy
from effchal.config import ConfigError, LoraConfig, ModelConfig
from effchal.config.choices import ActivationCheckpointing, Dtype
from effchal.decoding.taps import TappedModel
from effchal.model.load import add_adapter, load_base_model
from effchal.model.route import Decoding, Route, require_layer_states, route_of, set_route
from effchal.model.structure import backbone, rope_switch
from effchal.model.tokenizer import ModelError
from effchal.training.layers import prepare_training

CPU = torch.device("cpu")
TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32, max_seq_len=256)


@pytest.mark.parametrize(
    ("name", "packed", "plain_head", "decoding"),
    [
        ("mistral, window", True, True, Decoding.fused),
        ("smollm3", True, True, Decoding.fused),
        ("granite-3", True, False, Decoding.fused),
        ("olmo-2", True, True, Decoding.rows),
        ("gpt-oss", False, True, Decoding.rows),
        ("lfm2", False, True, Decoding.library),
        ("phi-4-mini", False, True, Decoding.library),
        ("doge", False, True, Decoding.reread),
    ],
)
def test_an_architecture_takes_the_fastest_way_that_is_right(name, packed, plain_head, decoding):
    route = admit_architecture(make(name))
    assert (route.packed, route.plain_head, route.decoding) == (packed, plain_head, decoding)
    slow = (not packed) + (decoding in (Decoding.library, Decoding.reread))
    assert len(route.notes) == slow


@pytest.mark.parametrize("name", ["ministral-3", "gemma-2"])
def test_layers_that_are_more_than_their_parts_stay_the_librarys(name):
    """Ministral 3 scales its queries far into a text, Gemma 2 caps its attention's logits."""
    route = admit_architecture(make(name))
    assert (route.fused, route.decoding) == (False, Decoding.rows)


def test_texts_up_to_the_switch_of_the_rope_need_no_slow_way():
    config = make("phi-4-mini")
    config.original_max_position_embeddings = 4096
    config.max_position_embeddings = 131072
    assert rope_switch(config) == 4096
    assert admit_architecture(config, 4096).packed
    assert not admit_architecture(config, 4097).packed


def test_the_copy_is_small_and_its_windows_are_crossed():
    config = make("mistral, window")
    config.sliding_window, config.vocab_size, config.num_hidden_layers = 4096, 32000, 32
    config.hidden_size, config.num_attention_heads, config.head_dim = 4096, 32, 128
    config.num_key_value_heads, config.intermediate_size = 8, 14336
    copied = small_copy(config, 32768)
    assert copied.config.sliding_window == WINDOW < COPY.short
    assert sum(parameter.numel() for parameter in copied.parameters()) < 5e6
    assert config.num_hidden_layers == 32
    assert rope_switch(small_copy(make("phi-4-mini"), 512).config) == SWITCH < COPY.long


def seeing_all(model, input_ids, position_ids, lengths):
    """Rows whose examples see each other."""
    return backbone(model)(input_ids=input_ids, use_cache=False).last_hidden_state


def test_examples_that_see_each_other_are_found(monkeypatch):
    monkeypatch.setattr(trial, "packed_hidden_states", seeing_all)
    known.clear()
    route = admit_architecture(make("llama-3.1"))
    assert not route.packed
    assert "one example at a time" in route.notes[0]
    known.clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_itself_shows_a_leak_in_every_dtype(monkeypatch, dtype):
    model = random_model("llama-3.1").to(dtype)
    start = Route(copied=True)
    assert Check(model, ITSELF).route(start, training=True, decoding=False).packed
    monkeypatch.setattr(trial, "packed_hidden_states", seeing_all)
    assert not Check(model, ITSELF).route(start, training=True, decoding=False).packed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_itself_shows_a_mask_that_is_wrong_for_one_row(monkeypatch, dtype):
    from effchal.decoding import fused_steps

    right, model = fused_steps.attention_mask, random_model("smollm3").to(dtype)

    def wrong(config, visible, position_ids, columns):
        mask = right(config, visible, position_ids, columns).clone()
        if len(mask) > 1:
            mask[1:, ..., :3] = False
        return mask

    start = Route(decoding=Decoding.rows, copied=True)
    assert Check(model, ITSELF).route(start, False, True).decoding is Decoding.rows
    monkeypatch.setattr(fused_steps, "attention_mask", wrong)
    assert Check(model, ITSELF).route(start, False, True).decoding is Decoding.library


def test_an_attention_that_was_set_stays():
    model = random_model("llama-3.1")
    model.set_attn_implementation("eager")
    TrainingAdmission(model, 64)
    assert model.config._attn_implementation == "eager"


def test_without_a_copy_the_ways_are_slow(monkeypatch):
    monkeypatch.setattr("effchal.admission.admit.small_copy", lambda config, longest: None)
    known.clear()
    route = admit_architecture(make("llama-3.1"))
    assert (route.packed, route.decoding) == (False, Decoding.library)
    known.clear()


def test_a_model_of_few_positions_is_tried_on_short_texts():
    config = make("gpt-2")
    config.n_positions = 24
    assert admit_architecture(config).decoding is Decoding.rows


def test_a_window_that_is_off_by_one_is_found(monkeypatch):
    model = random_model("mistral, window")
    model.set_attn_implementation("sdpa")
    found = Check(model, COPY).route(Route(), training=True, decoding=True)
    assert found == dataclasses.replace(Route(), decoding=Decoding.fused)
    from effchal.decoding import fused_steps

    right = fused_steps.attention_mask

    def narrow(config, visible, position_ids, columns):
        mask = right(config, visible, position_ids, columns)
        return mask & (columns[:, None, None] > position_ids[:, None, :, None] - 7)

    monkeypatch.setattr(fused_steps, "attention_mask", narrow)
    assert Check(model, COPY).route(Route(), False, True).decoding is Decoding.library


def test_a_model_that_no_way_decodes_is_refused(monkeypatch):
    right = TappedModel.extend
    monkeypatch.setattr(TappedModel, "extend", lambda *args: right(*args) * 1.1)
    with pytest.raises(ModelError, match=r"^LlamaForCausalLM: no way of decoding"):
        Check(random_model("llama-3.1"), COPY).route(Route(), False, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_itself_confirms_what_its_copy_showed(dtype):
    model = random_model("granite-3").to(dtype)
    route = admit(model)
    assert route == route_of(model)
    assert (route.decoding, route.plain_head, route.notes) == (Decoding.fused, False, ())


def prepared(model):
    adapted = add_adapter(model, LoraConfig(target_modules=["q_proj", "v_proj"]), 0)
    assert prepare_training(adapted, ActivationCheckpointing.none)
    return adapted


def test_training_layers_are_held_against_the_librarys():
    model = load_base_model(TINY, CPU)
    admission = TrainingAdmission(model, 256)
    prepared(model)
    admission.confirm()
    layer = backbone(model).layers[0]
    right = layer.forward
    layer.forward = lambda *args, **kwargs: right(*args, **kwargs) * 1.05
    with pytest.raises(ModelError, match="training's layers do not give"):
        admission.confirm()


def test_checking_leaves_the_model_as_it_was():
    model = load_base_model(TINY, CPU)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    TrainingAdmission(model, 256)
    assert all(map(torch.equal, before, model.state_dict().values()))
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_dola_is_refused_where_layers_are_hidden():
    model = random_model("falcon-mamba")
    set_route(model, dataclasses.replace(Route(), taps=False))
    with pytest.raises(ConfigError, match="FalconMambaForCausalLM does not show the states"):
        require_layer_states(model)


def test_a_model_that_reads_each_text_again_is_admitted_and_has_a_cache_size():
    model = random_model("doge")
    assert admit(model).decoding is Decoding.reread
    assert TappedModel(model).bytes_per_token == 1


def test_the_verdict_is_told_in_plain_words():
    route = Route(packed=False, decoding=Decoding.library, notes=("slow",))
    told = route.report()
    assert told["packed"] == "one example at a time"
    assert told["decoding"] == "the library's cache, row by row"
    assert told["notes"] == ["slow"]
