import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from support.paths import ROOT, SMOLLM2, needs_smollm2
from support.training_runs import record, run
from torch._subclasses.fake_tensor import FakeTensorMode

from effchal.cli import compose_config
from effchal.config import BudgetConfig, Config, ConfigError, LoraConfig, ModelConfig, TrainConfig
from effchal.config.choices import ActivationCheckpointing, Dtype, Optimizer, Quantization
from effchal.model.load import add_adapter, load_base_model
from effchal.planning import history as records
from effchal.planning.allocated import AllocatedBytes
from effchal.planning.fit import Machine, make_plan
from effchal.planning.history import Pace, Record
from effchal.planning.hours import measured_hours, total_s
from effchal.planning.memory import Load, _micro_batch, optimizer_bytes, plan_memory
from effchal.planning.meta_model import nf4_bytes
from effchal.planning.outcome import plan_run
from effchal.planning.workload import Workload, stated_workload
from effchal.training.layers import prepare_training
from effchal.training.step import make_optimizer, target_loss

sys.path.append(str(ROOT / "scripts"))
from bench_plan import live_peak

CPU = torch.device("cpu")
GIB = 2**30
CARD = Machine(torch.device("cuda"), "RTX 4090", 24 * GIB, round(0.6 * GIB))


def mistral(*overrides):
    return compose_config(
        ["model=mistral_7b", "data_mix=quickstart", "lora=all_linear", *overrides]
    )


def plan_of(cfg, machine=CARD):
    return make_plan(cfg, machine, None)


def test_live_bytes_rise_and_fall_with_the_tensors():
    with FakeTensorMode(), AllocatedBytes() as live:
        a = torch.empty(1000, dtype=torch.float32)
        view = a[:10].view(2, 5)
        assert live.live == 4000
        b = a + 1
        assert (live.live, live.peak) == (8000, 8000)
        del a
        assert live.live == 8000  # the view keeps it
        del view
        assert live.live == 4000
        b.add_(1)
        assert (live.live, live.peak) == (4000, 8000)
        live.start_peak()
        assert live.peak == 4000


def measured_live(cfg, load):
    """Bytes of real tensors at the peak of two micro-batches, by torch's profiler."""
    model = add_adapter(load_base_model(cfg.model, CPU), cfg.lora, 0)
    prepare_training(model, cfg.train.activation_checkpointing)
    model.train()
    batch = _micro_batch(load)
    for tensor in (batch.input_ids, batch.position_ids, batch.target_positions, batch.targets):
        tensor.zero_()
    batch.position_ids = torch.arange(load.tokens)[None] % load.longest
    batch.target_positions = torch.arange(load.targets)

    def step():
        for _ in range(2):
            (target_loss(model, batch) / load.targets).backward()

    return live_peak(model, step)


@pytest.mark.parametrize("keep", list(ActivationCheckpointing))
@pytest.mark.parametrize(
    ("dropout", "dtype"),
    [(0.0, Dtype.float32), (0.1, Dtype.float32), (0.0, Dtype.bfloat16)],
    ids=["fused", "library", "fused, widened"],
)
def test_predicted_memory_is_that_of_the_real_step(keep, dropout, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # none: bfloat16 is widened
    cfg = Config(
        model=ModelConfig(name="builtin:tiny", dtype=dtype, max_seq_len=1024),
        lora=LoraConfig(
            r=16,
            dropout=dropout,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"],
        ),
        train=TrainConfig(activation_checkpointing=keep),
    )
    load = Load(tokens=2048, targets=700, longest=1024)
    memory = plan_memory(cfg, CPU, load, None)
    planned = sum(size for part, size in memory.parts.items() if part != "optimizer")
    assert planned == pytest.approx(measured_live(cfg, load), rel=0.05)


@needs_smollm2
def test_predicted_memory_of_the_real_model():
    cfg = Config(
        model=ModelConfig(name=str(SMOLLM2), dtype=Dtype.float32, max_seq_len=128),
        lora=LoraConfig(r=8),
        train=TrainConfig(),
    )
    load = Load(tokens=128, targets=60, longest=128)
    memory = plan_memory(cfg, CPU, load, load)
    planned = sum(size for part, size in memory.parts.items() if part != "optimizer")
    assert planned == pytest.approx(measured_live(cfg, load), rel=0.05)
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
    assert optimizer_bytes(Optimizer.paged_adamw, list(model.parameters()), CARD.device) == (
        4 * 2 * 123_200,
        8 * 120_000,
    )


def test_mistral_fits_a_card_of_24_gib_and_not_one_of_8():
    plan = plan_of(mistral())
    assert plan.fits
    assert (
        3.5 * GIB < plan.memory.parts["weights"] < 4.5 * GIB
    )  # 7.24 billion, nearly all in four bits
    assert not plan_of(
        mistral("train.activation_checkpointing=none")
    ).memory_fits  # why conf/model asks for selective
    small = dataclasses.replace(CARD, memory_limit=8 * GIB)
    plan = plan_of(mistral("train.micro_batch_size=2"), small)
    assert not plan.fits
    option = plan.options[0]
    assert option.overrides == ["train.activation_checkpointing=full"]
    again = plan_of(mistral("train.micro_batch_size=2", *option.overrides), small)
    assert again.fits
    assert again.memory_needed == option.memory


def test_full_precision_weights_do_not_fit_and_quantization_is_named():
    cfg = mistral("model.quantization=null", "model.dtype=float32")
    plan = plan_of(cfg)
    assert not plan.memory_fits
    assert ["model.quantization=nf4"] in [option.overrides for option in plan.options]


def test_stated_sizes_count_where_the_data_is_not_at_hand():
    cfg = compose_config(["model=mistral_7b", "data_mix=lima_platypus"])
    work = stated_workload(cfg)
    assert work.steps > 100
    assert work.tokens > 1e6
    cfg.train.max_steps = 10
    assert stated_workload(cfg).steps == 10
    cfg.data_mix.sources["lima"].tokens = None
    cfg.train.max_steps = None
    assert stated_workload(cfg).steps is None


def measured(**changes):
    fields = {
        **{
            "source": "run",
            "kind": {"a": 1},
            "tokens_per_s": 100.0,
            "spread": 0.01,
            "start_s": 10.0,
        },
        **{
            "validation_tokens_per_s": 400.0,
            "save_s": 1.0,
            "memory": 3 * GIB,
            "memory_planned": 2 * GIB,
        },
    }
    return Record(**(fields | changes))


def test_runs_count_before_probes_and_the_newest_first():
    records.keep(measured(source="probe", tokens_per_s=50.0))
    assert [r.tokens_per_s for r in records.records_of({"a": 1})] == [50.0]
    for speed in range(100, 107):
        records.keep(measured(tokens_per_s=float(speed)))
    records.keep(measured(kind={"a": 2}))
    with records.records_file().open("a") as file:
        file.write('{"source": "run", "ki')  # cut off
    assert [r.tokens_per_s for r in records.records_of({"a": 1})] == [
        106.0,
        105.0,
        104.0,
        103.0,
        102.0,
    ]


def test_hours_add_up():
    cfg = Config(
        train=TrainConfig(validate_every=10, checkpoint_every=20),
        budget=BudgetConfig(periodic_work_share=0.5),
    )
    load = Load(100, 50, 100)
    work = Workload("", 100, 36_000, load, load, validation_tokens=800)
    hours = measured_hours(cfg, work, [measured()])
    # start, steps, 9 validations and 4 checkpoints between steps, first and last validation, rehearsal and last save
    assert hours.expected * 3600 == pytest.approx(10 + 360 + 9 * 2 + 4 * 1 + 2 * 2 + 2 * 1)
    assert hours.low < hours.expected < hours.high
    cfg.budget.periodic_work_share = 0.01
    assert total_s(cfg, work, 100.0, 10.0, 2.0, 1.0) == pytest.approx(10 + 360 + 370 / 99 + 4 + 2)


def test_pace_leaves_the_first_step_out():
    pace = Pace()
    pace.add(10, 100.0)
    assert pace.tokens_per_s is None
    pace.add(100, 1.0)
    pace.add(100, 3.0)
    assert (pace.tokens_per_s, pace.steps) == (50.0, 3)
    assert pace.spread > 0.3


def test_a_run_that_cannot_fit_is_refused_before_the_model_is_loaded(
    tiny_cfg, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "effchal.planning.fit.psutil.virtual_memory", lambda: type("M", (), {"available": -(2**40)})
    )
    with pytest.raises(ConfigError, match=r"the run does not fit: .* GiB.*budget\.enforce=false"):
        run(tiny_cfg, tmp_path / "a")
    assert not (tmp_path / "a" / "checkpoint").exists()
    tiny_cfg.budget.enforce = False
    assert run(tiny_cfg, tmp_path / "b") == 0


def test_a_run_learns_from_the_ones_before(tiny_cfg, tmp_path):
    tiny_cfg.train.max_steps, tiny_cfg.train.epochs = 8, 4
    assert run(tiny_cfg, tmp_path / "a") == 0
    first = record(tmp_path / "a")["plan"]
    assert first["hours"]["predicted"] is None
    assert first["memory_gib"]["actual"] > 0
    assert run(tiny_cfg, tmp_path / "b") == 0
    second = record(tmp_path / "b")["plan"]
    assert second["hours"]["by"].startswith("1 run of this kind")
    assert second["tokens"]["predicted"] == second["tokens"]["actual"]
    tiny_cfg.train.max_steps, tiny_cfg.train.epochs = None, 20_000
    tiny_cfg.budget = BudgetConfig(hours=0.01)
    with pytest.raises(ConfigError, match=r"would fit: .*train\.max_steps=\d+"):
        run(tiny_cfg, tmp_path / "c")


def test_auto_takes_the_largest_micro_batch_that_fits(tiny_cfg, tmp_path, monkeypatch):
    tiny_cfg.train.micro_batch_size = "auto"
    tiny_cfg.model.max_seq_len = 64
    assert run(tiny_cfg, tmp_path / "a") == 0
    import yaml

    most = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["train"]["micro_batch_size"]
    assert 1 < most <= tiny_cfg.train.examples_per_step


def command(tmp_path, *overrides):
    arguments = [sys.executable, "-m", "effchal.plan", f"hydra.run.dir={tmp_path}", *overrides]
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)


def test_the_command_says_whether_it_fits(tmp_path):
    fits = command(tmp_path, "model=mistral_7b", "data_mix=lima_platypus")
    assert fits.returncode == 0, fits.stderr
    assert "fits: memory" in fits.stdout
    assert "hours:" in fits.stdout
    assert json.loads((tmp_path / "plan.json").read_text())["fits"] is True
    wrong = command(tmp_path, "model=mistral_7b", "lora.target_modules=[query]")
    assert (wrong.returncode, "memory" in wrong.stdout) == (2, False)
    assert "lora.target_modules has ['query']" in wrong.stderr


def test_a_probe_is_kept_for_later_plans(tmp_path):
    tiny = [
        "model=tiny",
        "prompt=plain",
        "data_mix=quickstart",
        "rules=none",
        "plan.device=cpu",
        "train.epochs=20",
    ]
    large = command(tmp_path, *tiny, "plan.device=cuda", "budget.memory_gib=0.1")
    assert large.returncode == 1, large.stderr
    assert "does not fit" in large.stdout
    probed = command(tmp_path, *tiny, "plan.probe=true")
    assert probed.returncode == 0, probed.stderr
    after = command(tmp_path, *tiny)
    assert "1 probe of this kind on this machine" in after.stdout


def test_rules_that_are_enforced_refuse_a_plan_that_fits(tmp_path):
    tiny = ["model=tiny", "data_mix=quickstart", "plan.device=cpu", "train.max_steps=2"]
    warned, refused = command(tmp_path, *tiny), command(tmp_path, *tiny, "rules.enforce=true")
    assert (warned.returncode, refused.returncode) == (0, 1)
    assert "rules fail" in refused.stdout


def test_a_probe_of_a_card_that_is_not_here_is_refused(tmp_path):
    tiny = [
        "model=tiny",
        "prompt=plain",
        "data_mix=quickstart",
        "rules=none",
        "plan.device=cuda",
        "plan.probe=true",
    ]
    result = command(tmp_path, *tiny)
    assert result.returncode == 2
    assert "add plan.device=cpu" in result.stderr


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
    load = Load(tokens=2048, targets=700, longest=1024)
    planned = plan_memory(cfg, CPU, load, None)
    assert sum(
        size for part, size in planned.parts.items() if part != "optimizer"
    ) == pytest.approx(measured_live(cfg, load), rel=0.05)


def test_a_plan_is_left_beside_the_run(tiny_cfg, tmp_path):
    tiny_cfg.lora = LoraConfig(r=4)
    from effchal.mixing.prepare import prepare_data
    from effchal.model.load import load_tokenizer
    from effchal.planning.workload import KnownData
    from effchal.prompts import PromptEncoder

    order, validation, _ = prepare_data(
        tiny_cfg, PromptEncoder(load_tokenizer(tiny_cfg.model), tiny_cfg.prompt), tmp_path
    )
    plan = plan_run(tiny_cfg, CPU, KnownData(order, validation), tmp_path, False)
    saved = json.loads((tmp_path / "plan.json").read_text())
    assert saved["memory_needed"] == plan.memory_needed
    assert saved["workload"]["steps"] == 6
