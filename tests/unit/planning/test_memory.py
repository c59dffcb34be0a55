"""Planned memory against that of real tensors."""

import dataclasses

import pytest
import torch
from bench_plan import live_peak
from support.paths import SMOLLM2, needs_smollm2
from torch._subclasses.fake_tensor import FakeTensorMode

from effchal.config import Config, LoraConfig, ModelConfig, TrainConfig
from effchal.config.choices import ActivationCheckpointing, Dtype, Optimizer, Quantization
from effchal.model.load import add_adapter, load_base_model
from effchal.planning.allocated import AllocatedBytes
from effchal.planning.memory import micro_batch_of, plan_memory
from effchal.planning.meta_model import nf4_bytes
from effchal.planning.optimizer import optimizer_bytes
from effchal.planning.workload import MicroBatchSize
from effchal.training.layers import prepare_training
from effchal.training.step import make_optimizer, target_loss

CPU = torch.device("cpu")


def test_allocated_bytes_rise_and_fall_with_the_tensors():
    with FakeTensorMode(), AllocatedBytes() as allocated:
        a = torch.empty(1000, dtype=torch.float32)
        view = a[:10].view(2, 5)
        assert allocated.now == 4000
        b = a + 1
        assert (allocated.now, allocated.peak) == (8000, 8000)
        del a
        assert allocated.now == 8000  # the view keeps it
        del view
        assert allocated.now == 4000
        b.add_(1)
        assert (allocated.now, allocated.peak) == (4000, 8000)
        allocated.start_peak()
        assert allocated.peak == 4000


def measured_peak(cfg, size):
    """Bytes of real tensors at the peak of two micro-batches, by torch's profiler."""
    model = add_adapter(load_base_model(cfg.model, CPU), cfg.lora, 0)
    prepare_training(model, cfg.train.activation_checkpointing)
    model.train()
    batch = micro_batch_of(size)
    for tensor in (batch.input_ids, batch.position_ids, batch.target_positions, batch.targets):
        tensor.zero_()
    batch.position_ids = torch.arange(size.tokens)[None] % size.longest
    batch.target_positions = torch.arange(size.targets)

    def step():
        for _ in range(2):
            (target_loss(model, batch) / size.targets).backward()

    return live_peak(model, step)


@pytest.mark.integration
@pytest.mark.parametrize("keep", list(ActivationCheckpointing))
@pytest.mark.parametrize(
    ("lora", "model"),
    [
        ({}, {"dtype": Dtype.float32}),
        ({"dropout": 0.1}, {"dtype": Dtype.float32}),
        ({"use_dora": True}, {"dtype": Dtype.float32}),
        ({}, {"dtype": Dtype.bfloat16}),
        ({}, {"dtype": Dtype.float32, "quantization": Quantization.nf4}),
        ({"use_dora": True}, {"dtype": Dtype.float32, "quantization": Quantization.nf4}),
    ],
    ids=["fused", "fused, dropout", "library", "fused, upcast", "fused, NF4", "library, NF4"],
)
def test_predicted_memory_is_that_of_the_real_step(keep, lora, model, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # none: bfloat16 is upcast
    cfg = Config(
        model=ModelConfig(name="builtin:tiny", max_seq_len=1024, **model),
        lora=LoraConfig(
            r=16, **lora, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]
        ),
        train=TrainConfig(activation_checkpointing=keep),
    )
    size = MicroBatchSize(tokens=2048, targets=700, longest=1024)
    memory = plan_memory(cfg, CPU, size, None)
    planned = sum(size for part, size in memory.parts.items() if part != "optimizer")
    assert planned == pytest.approx(measured_peak(cfg, size), rel=0.05)


def test_the_traffic_of_a_token_is_that_of_the_step():
    cfg = Config(
        model=ModelConfig(name="builtin:tiny", dtype=Dtype.float32, max_seq_len=1024),
        lora=LoraConfig(r=16),
    )
    size = MicroBatchSize(tokens=1024, targets=512, longest=512, several=False)
    kept = plan_memory(cfg, CPU, size, None).cost
    twice = dataclasses.replace(size, tokens=2048, targets=1024)
    assert plan_memory(cfg, CPU, twice, None).cost.training_traffic == pytest.approx(
        kept.training_traffic, rel=0.1
    )
    assert plan_memory(cfg, CPU, twice, None).cost.launches < kept.launches
    assert kept.training_traffic > 2 * kept.forward_traffic > 0
    cfg.train.activation_checkpointing = ActivationCheckpointing.full
    again = plan_memory(cfg, CPU, size, None).cost
    assert again.training_traffic > 1.05 * kept.training_traffic
    assert again.forward_traffic == pytest.approx(kept.forward_traffic, rel=0.1)


@needs_smollm2
def test_predicted_memory_of_the_real_model():
    cfg = Config(
        model=ModelConfig(name=str(SMOLLM2), dtype=Dtype.float32, max_seq_len=128),
        lora=LoraConfig(r=8),
        train=TrainConfig(),
    )
    size = MicroBatchSize(tokens=128, targets=60, longest=128)
    memory = plan_memory(cfg, CPU, size, size)
    planned = sum(size for part, size in memory.parts.items() if part != "optimizer")
    assert planned == pytest.approx(measured_peak(cfg, size), rel=0.05)
    assert memory.phases["validation"] < memory.phases["training step"]


def test_packed_weights_take_what_bitsandbytes_keeps():
    from bitsandbytes.functional import quantize_4bit

    for double in (False, True):
        packed, state = quantize_4bit(
            torch.randn(512, 768), quant_type="nf4", compress_statistics=double
        )
        kept = packed.nbytes + state.absmax.nbytes
        if double:
            kept += state.state2.absmax.nbytes + state.state2.code.nbytes
        assert nf4_bytes(512 * 768, double) == pytest.approx(kept + state.code.nbytes, rel=0.001)


@pytest.mark.parametrize(
    "kind", [Optimizer.adamw, Optimizer.adamw8bit, Optimizer.lion8bit, Optimizer.paged_adamw8bit]
)
def test_optimizer_bytes_are_those_of_its_state(kind):
    model = torch.nn.Sequential(
        torch.nn.Linear(300, 400, bias=False), torch.nn.Linear(400, 8, bias=False)
    )
    optimizer = make_optimizer(model, TrainConfig(optimizer=kind))
    model(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    tensors = [
        t
        for state in optimizer.state.values()
        for t in state.values()
        if isinstance(t, torch.Tensor)
    ]
    kept = sum(
        tensor.nbytes for tensor in tensors if tensor.numel() not in (1, 256)
    )  # steps and tables
    total, paged = optimizer_bytes(kind, list(model.parameters()), CPU)
    assert (total, paged) == (pytest.approx(kept, rel=0.01), 0)
    assert optimizer_bytes(
        Optimizer.paged_adamw, list(model.parameters()), torch.device("cuda")
    ) == (4 * 2 * 123_200, 8 * 120_000)


def test_nf4_is_planned_as_the_library_computes_it():
    cfg = Config(
        model=ModelConfig(
            name="builtin:tiny",
            dtype=Dtype.float32,
            quantization=Quantization.nf4,
            max_seq_len=1024,
        ),
        lora=LoraConfig(r=16, target_modules=["q_proj", "up_proj", "down_proj"]),
        train=TrainConfig(),
    )
    size = MicroBatchSize(tokens=2048, targets=700, longest=1024)
    planned = plan_memory(cfg, CPU, size, None)
    assert sum(
        size for part, size in planned.parts.items() if part != "optimizer"
    ) == pytest.approx(measured_peak(cfg, size), rel=0.05)
