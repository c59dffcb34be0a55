"""Decode steps that are recorded and done again answer as steps without: CUDA graphs, by a CPU."""

import random
from dataclasses import replace

import pytest
import torch
from support.paths import needs_smollm2
from support.random_models import CPU, MODELS, random_model
from support.recorded_steps import Freed, HostRecording, small_graphs
from support.saved_adapters import NARROW, save_adapter, tiny_base

from effchal.config import ModelConfig
from effchal.config.choices import Dtype, Quantization
from effchal.decoding.contrast import Dola, Sled
from effchal.decoding.engine import Engine
from effchal.decoding.kv_cache import RowCache
from effchal.decoding.reading import parts_in_step
from effchal.decoding.recovery import step_apart
from effchal.decoding.sampling import SamplingParams
from effchal.kernels.step_graphs import StepGraphs
from effchal.model.load import load_base_model

pytestmark = pytest.mark.integration  # a replay by the host takes long
PROMPTS = [[5, 9, 11, 40], [7, 8], [3, 8] * 15, [5, 9, 11, 40], [6] * 9]
GREEDY = SamplingParams(20, ignore_eos=True, alternatives=1)
DOLA = replace(GREEDY, contrast=Dola((0, 1)), max_new_tokens=30)
SAMPLED = replace(GREEDY, temperature=0.8, top_p=0.9)
LONG = replace(GREEDY, max_new_tokens=150)
VARIANTS = [
    [GREEDY, DOLA],
    [replace(GREEDY, max_new_tokens=25)],
    [replace(GREEDY, max_new_tokens=40), *(replace(SAMPLED, seed=seed) for seed in range(3))],
    [replace(DOLA, contrast=Dola((0, 1), exit_norm=True), max_new_tokens=33)],
    [replace(DOLA, contrast=Sled((1,)), max_new_tokens=9)],
]


@pytest.fixture(autouse=True)
def graphs_soon(monkeypatch):
    small_graphs(monkeypatch)


def engine_of(model, tokenizer, record=HostRecording):
    engine = Engine(model, tokenizer, record)
    engine.model._fused.shares_prefix = False  # a card has no shared prefixes
    return engine


def check_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.ids == other.ids
        assert one.finish_reason == other.finish_reason
        values = [[token.logprob for token in each.all_tokens] for each in (one, other)]
        assert values[0] == pytest.approx(values[1], abs=2e-4)
    assert not StepGraphs.failed


def answers(engine, prompts=PROMPTS, variants=VARIANTS, rows_at_once=3):
    found = engine.generate(prompts, variants, rows_at_once)
    return [each for several in found for each in several]


FAMILIES = (
    *("llama, biases and scaled rotation", "mistral, wide window", "gemma, gains of one and more"),
    *("qwen3, norms of queries and keys", "granite, multipliers", "gemma3, norms of what is added"),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_steps_without(family, tiny_engine):
    """Rows fork, finish at different times, and cross columns and capacities meanwhile."""
    model = random_model(*MODELS[family])
    expected = answers(engine_of(model, tiny_engine.tokenizer, None))
    check_same(answers(engine_of(model, tiny_engine.tokenizer)), expected)
    assert HostRecording.made > 8
    assert HostRecording.replayed > 40


@needs_smollm2
def test_the_real_model_answers_as_without(smollm2):
    prompts = [[504, 3575, 282, 4649, 314], [1, 2, 3], [28, 30] * 20]
    layers = Dola((2, 14))
    few = replace(GREEDY, max_new_tokens=12)
    variants = [
        [few],
        [replace(few, contrast=layers)],
        [replace(few, temperature=0.8, seed=1), few],
    ]
    expected, found = (
        answers(engine_of(*smollm2, record), prompts, variants, 3)
        for record in (None, HostRecording)
    )
    check_same(found, expected)
    assert HostRecording.replayed > 5


def test_nf4_with_an_adapter_answers_as_without(tiny_engine, tmp_path):
    cfg = ModelConfig(name="builtin:tiny", dtype=Dtype.float32, quantization=Quantization.nf4)
    folder, found = save_adapter(tmp_path / "adapter", 1), []
    for record in (None, HostRecording):
        engine = engine_of(load_base_model(cfg, CPU), tiny_engine.tokenizer, record)
        names = (engine.model.load_adapter(folder),) * 2
        some = engine.generate(PROMPTS[:2], [[GREEDY]] * 2, 2, names)
        found.append([each for several in some for each in several])
    check_same(*found)
    assert HostRecording.replayed > 10


def driven(engine, seed, adapters=("",), steps=100):
    """Sequences of prompts that come, are read beside steps, go and fail as a seed has it."""
    draw, all_sequences, reading = random.Random(seed), [], None
    for _ in range(steps):
        if reading is None and len(engine.rows) < 7 and draw.random() < 0.3:
            ids = [draw.randrange(3, 200) for _ in range(draw.choice([1, 3, 8, 20]))]
            variants = draw.choice(VARIANTS)
            variants = [
                replace(each, seed=draw.randrange(99), max_new_tokens=draw.randrange(2, 50))
                for each in variants
            ]
            reading = engine.begin(ids, variants, draw.choice(adapters))
            all_sequences += reading.sequences
        if draw.random() < 0.05 and all_sequences:  # a client has gone
            draw.choice(all_sequences[-9:]).finish_reason = "cancelled"
            engine.drop_finished()
        if draw.random() < 0.03 and engine.rows:  # a step failed before it changed anything
            step_apart(engine)
        elif reading is not None and engine.rows:
            engine.step(parts_in_step(engine, [reading], 4))
            reading = reading if reading.left else None
        elif reading is not None:
            reading = None if engine.prefill(reading, 4) else reading
        elif engine.rows:
            engine.step()
        if draw.random() < 0.03:  # room for what may come, as a server's scheduler makes it
            rows, tokens = engine.cache.capacity
            engine.cache.resize(max(rows, 4), tokens + 64)
        if draw.random() < 0.02:
            engine.clear()
            reading = None
    return all_sequences


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_come_and_go_answer_as_without(seed, tiny_engine):
    model = random_model(*MODELS["llama"])
    found, expected = (
        driven(engine_of(model, tiny_engine.tokenizer, record), seed)
        for record in (HostRecording, None)
    )
    assert [each.ids for each in found] == [each.ids for each in expected]
    assert HostRecording.replayed > 30
    assert not StepGraphs.failed


def test_adapters_that_are_loaded_and_dropped_change_no_answer(tiny_engine, tmp_path):
    folders = [
        save_adapter(tmp_path / "wide", 1),
        save_adapter(tmp_path / "narrow", 2, r=8, targets=NARROW),
    ]

    def told(record):
        engine = engine_of(tiny_base(), tiny_engine.tokenizer, record)
        found = driven(engine, 0, steps=60)
        first = engine.model.load_adapter(folders[0])
        engine.clear()
        found += driven(engine, 1, ("", first), 60)  # mixed rows have no graph, others do
        kept = engine.start(PROMPTS[0], [replace(GREEDY, max_new_tokens=60)])
        engine.clear()
        second = engine.model.load_adapter(folders[1])
        engine.model.drop_adapter(first)
        found += driven(engine, 2, (second,), 60)
        return [each.ids for each in [*found, *kept]]

    assert told(HostRecording) == told(None)
    assert HostRecording.replayed > 30


def test_no_adapters_rows_go_by_the_graph_of_another(tiny_engine, tmp_path):
    folders = [save_adapter(tmp_path / name, seed) for seed, name in enumerate(("one", "other"))]

    def told(record):
        engine, found = engine_of(tiny_base(), tiny_engine.tokenizer, record), []
        names = [*map(engine.model.load_adapter, folders), ""]
        for name in names * 2:  # one after the other, in the same memory
            (sequence,) = engine.start(PROMPTS[0], [replace(GREEDY, max_new_tokens=8)], name)
            while engine.rows:
                engine.step()
            found.append(sequence.ids)
        return found

    found = told(HostRecording)
    assert found == told(None)
    assert len({tuple(ids) for ids in found}) == HostRecording.made == 3


def test_an_adapter_that_goes_takes_its_graphs_with_it(tiny_engine, tmp_path):
    engine = engine_of(tiny_base(), tiny_engine.tokenizer)
    name = engine.model.load_adapter(save_adapter(tmp_path / "adapter", 1))
    engine.start(PROMPTS[0], [GREEDY], name)
    graphs = engine.model._graphs
    for change in (
        lambda: engine.model.drop_adapter(name),
        lambda: engine.model.load_adapter(tmp_path / "adapter"),
    ):
        for _ in range(4):
            engine.step()
        assert graphs._tables[engine.cache].graphs
        change()
        assert not graphs._tables
        engine.rows[0].adapter = ""


class TestStaleGraphs:
    """Each holds, and fails where the code that holds it is left out."""

    def longest(self, tokenizer, record):
        model = random_model(*MODELS["llama"])
        return answers(engine_of(model, tokenizer, record), [PROMPTS[0]], [[LONG]], 1)

    def test_a_cache_that_grew_is_not_written_at_its_old_place(self, tiny_engine, monkeypatch):
        model = random_model(*MODELS["llama"])

        def told(record):
            engine = engine_of(model, tiny_engine.tokenizer, record)
            (sequence,) = engine.start(PROMPTS[0], [GREEDY])
            for _ in range(12):
                if len(sequence.ids) == 8:  # of 16 columns before and after
                    engine.cache.resize(1, 640)
                engine.step()
            return sequence.ids

        expected = told(None)
        assert told(HostRecording) == expected
        assert HostRecording.made == 2
        monkeypatch.setattr(RowCache, "addresses", lambda cache: None)
        with pytest.raises(Freed):
            told(HostRecording)

    def test_a_resize_in_place_of_size_alone_counts(self, tiny_engine):
        """Fewer rows and more tokens: the same bytes, perhaps at the same address."""
        engine = engine_of(random_model(*MODELS["llama"]), tiny_engine.tokenizer)
        engine.start(PROMPTS[0], [GREEDY])
        engine.cache.resize(2, 64)
        before = engine.cache.addresses()
        engine.cache.resize(1, 128)
        assert engine.cache.addresses()[0] != before[0]

    def test_memory_of_one_row_that_no_token_came_to_is_masked(self, tiny_engine, monkeypatch):
        """Masked columns are multiplied by 0, and here all that is not written is NaN."""
        expected = self.longest(tiny_engine.tokenizer, None)
        torch.use_deterministic_algorithms(True)  # fills what is allocated
        try:
            check_same(self.longest(tiny_engine.tokenizer, HostRecording), expected)
            monkeypatch.setattr(
                "effchal.decoding.taps.RowCache", lambda zeroed: RowCache(zeroed=False)
            )
            with pytest.raises(AssertionError):
                check_same(self.longest(tiny_engine.tokenizer, HostRecording), expected)
        finally:
            torch.use_deterministic_algorithms(False)

    def test_a_row_that_comes_later_does_not_see_what_a_pad_row_wrote(self, tiny_engine):
        engine = engine_of(random_model(*MODELS["llama"]), tiny_engine.tokenizer)
        engine.cache.resize(4, 64)
        for ids in PROMPTS[:3]:
            engine.start(ids, [LONG])
        before = [part.clone() for part in engine.cache._keys]
        for _ in range(5):
            engine.step()
        pads = [(one[3] != other[3]) for one, other in zip(engine.cache._keys, before, strict=True)]
        assert all(each[:, 0].any() and not each[:, 1:].any() for each in pads)  # column 0 alone
        assert all(torch.isfinite(part).all() for part in engine.cache._keys)


def test_a_wrong_graph_leaves_no_wrong_keys_behind(tiny_engine, caplog):
    """It wrote keys and values of other ids before it was found to differ."""

    class OfOtherIds(HostRecording):
        def __init__(self, work, beside):
            super().__init__(work, beside)
            for func, _, given, _ in self._operations:
                if func is torch.ops.aten.embedding.default:
                    given[1] = torch.full_like(given[1], 7)

    model = random_model(*MODELS["llama"])
    told = [], [], []
    for record, ids in zip((None, HostRecording, OfOtherIds), told, strict=True):
        engine = engine_of(model, tiny_engine.tokenizer, record)
        (sequence,) = engine.start(PROMPTS[0], [GREEDY])
        while engine.rows:
            engine.step()
        ids += sequence.ids
        assert StepGraphs.failed is (record is OfOtherIds)
    assert told[0] == told[1] == told[2]
    assert "a graph's states are" in caplog.text
    assert len(caplog.messages) == 1
