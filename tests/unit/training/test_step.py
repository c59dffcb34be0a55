import pytest
import torch
from support.adapted_models import fill_adapter
from support.examples import encode_example, load_source
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from effchal.config import DataSourceConfig, LoraConfig, ModelConfig, PromptConfig
from effchal.config import TrainConfig as Train
from effchal.config.choices import ActivationCheckpointing, DataFormat, Dtype, Optimizer
from effchal.mixing.encode import IGNORE_INDEX
from effchal.mixing.packing import pack
from effchal.model.load import add_adapter, load_base_model
from effchal.model.structure import causal_lm
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import PromptEncoder
from effchal.training.layers import prepare_training
from effchal.training.step import (
    NonFiniteError,
    make_optimizer,
    target_loss,
    train_step,
    validation_loss,
)

TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)


@pytest.fixture(scope="module")
def examples():
    encoder = PromptEncoder(load_tokenizer(TINY), PromptConfig())
    source = DataSourceConfig(path="builtin:conversations.jsonl", format=DataFormat.lima)
    return [encode_example(e, encoder, 1024) for e in load_source("s", source)[:8]]


def make_model(**lora):
    model = add_adapter(load_base_model(TINY, torch.device("cpu")), LoraConfig(**lora), seed=0)
    fill_adapter(model, std=0.02)
    return model


def gradients_of_step(model, micro_batches, must_cut=None, before_update=None):
    """The gradients that train_step updates with, caught at the update."""
    caught = []
    parameters = [p for p in model.parameters() if p.requires_grad]

    class Catch(torch.optim.SGD):
        def step(self):
            caught.extend(p.grad.clone() for p in parameters)

    optimizer = Catch(parameters, lr=0.0)
    stats = train_step(model, optimizer, micro_batches, 1e9, must_cut, before_update)
    return torch.cat([gradient.flatten() for gradient in caught]), stats


def test_accumulation_equals_one_big_batch(examples):
    model = make_model()
    one_row_each = pack(examples, 1, packing=False)
    one_big_batch = pack(examples, len(examples), packing=False)
    packed = pack(examples, 2048, packing=True)
    assert (len(one_row_each), len(one_big_batch)) == (8, 1)
    expected, stats = gradients_of_step(model, one_big_batch)
    for micro_batches in (one_row_each, packed):
        gradients, other = gradients_of_step(model, micro_batches)
        assert (gradients - expected).abs().max() < 1e-5 * expected.abs().max()
        assert other.loss == pytest.approx(stats.loss, abs=1e-5)
        assert (other.tokens, other.target_tokens) == (stats.tokens, stats.target_tokens)


def test_a_step_cut_short_is_the_step_of_what_was_done(examples):
    model = make_model()
    rows = pack(examples, 1, packing=False)
    expected, stats = gradients_of_step(model, rows[:3])
    answers, was_cut = iter([False, False, True]), []
    gradients, cut = gradients_of_step(model, rows, lambda: next(answers), was_cut.append)
    assert was_cut == [True]
    assert (gradients - expected).abs().max() < 1e-5 * expected.abs().max()
    assert cut.loss == pytest.approx(stats.loss, abs=1e-5)
    assert (cut.tokens, cut.target_tokens) == (stats.tokens, stats.target_tokens)


def test_the_loss_is_that_of_the_library_on_one_example(examples):
    model = make_model()
    example = examples[0]
    (mb,) = pack([example], 1024, True)
    labels = torch.tensor([[IGNORE_INDEX, *example.targets[:-1]]])
    expected = causal_lm(model)(input_ids=mb.input_ids, labels=labels, use_cache=False).loss
    assert target_loss(model, mb).item() / mb.target_tokens == pytest.approx(
        expected.item(), abs=1e-5
    )
    assert validation_loss(model, [mb]) == pytest.approx(expected.item(), abs=1e-5)


def test_gradients_are_clipped_to_the_norm(examples):
    model = make_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    before = torch.cat([p.detach().flatten().clone() for p in parameters])
    stats = train_step(model, torch.optim.SGD(parameters, lr=1.0), pack(examples, 1024, True), 0.01)
    moved = torch.cat([p.detach().flatten() for p in parameters]) - before
    assert stats.grad_norm > 0.01
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)
    assert all(p.grad is None for p in parameters)


def everything_trained(model, optimizer):
    states = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    ]
    return [
        tensor.detach().clone()
        for tensor in [*(p for p in model.parameters() if p.requires_grad), *states]
    ]


@pytest.mark.parametrize("name", [Optimizer.adamw, Optimizer.adamw8bit])
def test_a_non_finite_loss_leaves_weights_and_optimizer_and_names_the_examples(examples, name):
    model = make_model(r=64)
    optimizer = make_optimizer(model, Train(optimizer=name))
    bad, good = pack(examples[:1], 1024, True), pack(examples[1:2], 1024, True)
    bad_token = int(bad[0].input_ids[0, 0])
    good[0].input_ids[good[0].input_ids == bad_token] = 0
    start = everything_trained(model, optimizer)
    train_step(model, optimizer, good, 1.0)
    model.get_input_embeddings().weight.data[bad_token] = float("nan")
    before = everything_trained(model, optimizer)
    with pytest.raises(
        NonFiniteError,
        match=rf"non-finite loss in the step of examples {examples[0].id}; no update",
    ):
        train_step(model, optimizer, good + bad, 1.0)
    after = everything_trained(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(start, before, strict=False))
    train_step(model, optimizer, good, 1.0)  # and the next one is an update again
    assert not all(
        torch.equal(a, b) for a, b in zip(everything_trained(model, optimizer), before, strict=True)
    )


@pytest.mark.parametrize("name", [Optimizer.adamw, Optimizer.adamw8bit])
def test_a_non_finite_gradient_leaves_weights_and_optimizer(examples, name):
    model = make_model(r=64)
    optimizer = make_optimizer(model, Train(optimizer=name))
    rows = pack(examples, 1024, True)
    train_step(model, optimizer, rows, 1.0)
    before = everything_trained(model, optimizer)
    parameter = next(p for p in model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        NonFiniteError, match=f"non-finite gradient in the step of examples .*{examples[0].id}"
    ):
        train_step(model, optimizer, rows, 1.0)
    after = everything_trained(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_non_finite_first_step_leaves_the_next_one_what_it_would_have_been(examples):
    good = pack(examples[:2], 1024, True)
    updated = []
    for fails_first in (True, False):
        model = make_model()
        optimizer = make_optimizer(model, Train())
        if fails_first:
            parameter = next(p for p in model.parameters() if p.requires_grad)
            hook = parameter.register_hook(lambda gradient: gradient * float("nan"))
            with pytest.raises(NonFiniteError):
                train_step(model, optimizer, good, 1.0)
            hook.remove()
        train_step(model, optimizer, good, 1.0)
        updated.append(everything_trained(model, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(*updated, strict=True))


@pytest.mark.integration
@pytest.mark.parametrize("fused", [True, False])
def test_the_host_waits_for_the_device_once_a_step_and_last(examples, fused):
    # A fake tensor holds no numbers: what asks for one, and would make the host wait, raises.
    model = make_model()
    if fused:
        assert prepare_training(model, ActivationCheckpointing.selective)
    optimizer = make_optimizer(model, Train())
    rows, updates = pack(examples, 1024, True), []
    optimizer.register_step_post_hook(lambda *_: updates.append(1))
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises(DataDependentOutputException) as error,
    ):
        train_step(model, optimizer, rows, 1.0)
    assert len(updates) == 1
    assert "tolist" in str(
        error.traceback[[entry.name for entry in error.traceback].index("update")].statement
    )


@pytest.mark.parametrize("name", list(Optimizer))
def test_every_optimizer_lowers_the_loss(examples, name):
    model = make_model(r=64)
    optimizer = make_optimizer(model, Train(optimizer=name, lr=1e-2))
    micro_batches = pack(examples[:2], 1024, True)
    losses = [train_step(model, optimizer, micro_batches, 1.0).loss for _ in range(6)]
    assert losses[-1] < losses[0] - 0.1
    tensors = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    ]
    assert any(tensor.dtype == torch.uint8 for tensor in tensors) == ("8bit" in name.value)
