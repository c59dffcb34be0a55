from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.configs import compose_config
from support.examples import encode_example, load_source
from support.paths import SHARED_DATA, needs_shared_data, needs_smollm2

from effchal.config import DataSourceConfig, ModelConfig, PromptConfig, TrainConfig
from effchal.config.choices import DataFormat, Dtype, LossOn, WeighBy
from effchal.kernels.attention import packed_hidden_states
from effchal.mixing.best_fit import best_fit
from effchal.mixing.encode import IGNORE_INDEX, EncodedExample, targets_of
from effchal.mixing.example import Example
from effchal.mixing.mix import Mix
from effchal.mixing.order import TrainingOrder
from effchal.mixing.packing import pack
from effchal.model.load import load_base_model
from effchal.model.structure import head
from effchal.model.tokenizer import load_tokenizer
from effchal.prompts.encoder import PromptEncoder, Turn

TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)


def encoded(name, length):
    targets = np.array([*range(2, length + 1), IGNORE_INDEX])
    return EncodedExample(name, np.arange(1, length + 1), targets, False)


@pytest.fixture(scope="module")
def encoder():
    return PromptEncoder(load_tokenizer(TINY), PromptConfig(user="{content}:"))


def test_targets_are_the_answer_and_its_end(encoder):
    example = Example("s:0", (Turn("user", "ab"), Turn("assistant", "cd")))
    result = encode_example(example, encoder, 100)
    a, b, colon, c, d, end = result.ids
    assert end == encoder.eos_id
    assert result.targets.tolist() == [IGNORE_INDEX, IGNORE_INDEX, c, d, end, IGNORE_INDEX]
    whole = encode_example(example, encoder, 100, LossOn.all)
    assert whole.targets.tolist() == [b, colon, c, d, end, IGNORE_INDEX]
    assert a in result.ids


def test_every_answer_of_a_conversation_is_a_target(encoder):
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"))
    result = encode_example(Example("s:0", turns), encoder, 100)
    targets = [target for target in result.targets if target != IGNORE_INDEX]
    assert encoder.tokenizer.decode(targets) == "b</s>d</s>"


def test_a_cut_answer_does_not_teach_to_stop(encoder):
    example = Example("s:0", (Turn("user", "ab"), Turn("assistant", "c" * 50)))
    result = encode_example(example, encoder, 20)
    assert (len(result.ids), result.truncated) == (20, True)
    assert encoder.eos_id not in result.targets
    assert encode_example(example, encoder, 3) is None


@pytest.mark.parametrize(("micro_batch_size", "count"), [(1, 5), (3, 2)])
def test_packing_holds_every_example_once_and_wastes_nothing(micro_batch_size, count):
    lengths = [70, 30, 50, 50, 20, 80, 10, 90, 5, 95]
    examples = [encoded(f"e{i}", length) for i, length in enumerate(lengths)]
    micro_batches = pack(examples, 100 * micro_batch_size, packing=True)
    assert sorted(name for mb in micro_batches for name in mb.example_ids) == sorted(
        e.id for e in examples
    )
    assert len(micro_batches) == count  # 500 tokens in fives of 100, or in 300 and 200
    for mb in micro_batches:
        assert mb.input_ids.shape == mb.position_ids.shape == (1, mb.tokens)
        assert mb.tokens <= 100 * micro_batch_size
        assert mb.position_ids[0].tolist() == [i for n in mb.lengths for i in range(n)]
        assert mb.target_tokens == mb.tokens - len(mb.example_ids)
        following = mb.input_ids[0, mb.target_positions + 1]
        assert torch.equal(mb.targets, following)


def test_without_packing_a_micro_batch_is_so_many_examples():
    examples = [encoded("a", 5), encoded("b", 9), encoded("c", 7)]
    first, second = pack(examples, 2, packing=False)
    assert (first.example_ids, first.lengths, second.example_ids) == (["b", "c"], (9, 7), ["a"])
    assert first.position_ids.tolist() == [[*range(9), *range(7)]]
    assert first.target_positions.tolist() == [*range(8), *range(9, 15)]


def losses_by_example(model, micro_batches):
    """Mean loss of each example, by id."""
    result = {}
    for mb in micro_batches:
        with torch.no_grad():
            hidden = packed_hidden_states(model, mb.input_ids, mb.position_ids, mb.lengths)[
                0, mb.target_positions
            ]
            loss = F.cross_entropy(head(model)(hidden), mb.targets, reduction="none")
        ends = torch.tensor(mb.lengths).cumsum(0)
        owner = torch.bucketize(mb.target_positions, ends, right=True)
        for i, name in enumerate(mb.example_ids):
            result[name] = float(loss[owner == i].mean())
    return result


def check_packed_equals_alone(model, examples, max_seq_len):
    alone = losses_by_example(model, [mb for e in examples for mb in pack([e], max_seq_len, True)])
    for micro_batch_size in (1, 2):
        packed = pack(examples, micro_batch_size * max_seq_len, True)
        assert len(packed) < len(examples)
        together = losses_by_example(model, packed)
        assert together.keys() == alone.keys()
        assert max(abs(together[name] - alone[name]) for name in alone) < 1e-4


def test_packed_equals_unpacked_on_a_tiny_model():
    model, tokenizer = load_base_model(TINY, torch.device("cpu")), load_tokenizer(TINY)
    encoder = PromptEncoder(tokenizer, PromptConfig())
    source = DataSourceConfig(path="builtin:instructions.jsonl", format=DataFormat.platypus)
    examples = [encode_example(e, encoder, 2048) for e in load_source("s", source)[:12]]
    check_packed_equals_alone(model, examples, 2048)


def test_packed_equals_unpacked_on_mistrals_shape_with_a_sliding_window(tmp_path):
    import shutil

    import transformers

    from effchal.model.tokenizer import base_model_path

    tokenizer = load_tokenizer(TINY)
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=64,
    )
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{base_model_path(TINY)}/{name}", tmp_path)
    model = load_base_model(
        ModelConfig(name=str(tmp_path), dtype=Dtype.float32), torch.device("cpu")
    )
    source = DataSourceConfig(path="builtin:instructions.jsonl", format=DataFormat.platypus)
    encoder = PromptEncoder(tokenizer, PromptConfig())
    examples = [encode_example(e, encoder, 1024) for e in load_source("s", source)[:6]]
    assert max(len(e.ids) for e in examples) > 128
    check_packed_equals_alone(model, examples, 1024)


def test_a_mask_of_ones_would_leak_which_is_why_there_is_none():
    model = load_base_model(TINY, torch.device("cpu"))
    ids = torch.randint(0, 250, (1, 40))
    positions = torch.cat([torch.arange(20), torch.arange(20)])[None]
    alone = model.model(input_ids=ids[:, 20:], use_cache=False).last_hidden_state
    options = {"input_ids": ids, "position_ids": positions}
    masked = model.model(
        **options, attention_mask=torch.ones_like(ids), use_cache=False
    ).last_hidden_state[:, 20:]
    cached = model.model(**options).last_hidden_state[:, 20:]
    isolated = packed_hidden_states(model, ids, positions, (20, 20))[:, 20:]
    assert (isolated - alone).abs().max() < 1e-5
    assert (masked - alone).abs().max() > 1e-3
    assert (cached - alone).abs().max() > 1e-3


def test_a_model_prepared_for_packed_rows_refuses_to_attend_over_all():
    model = load_base_model(TINY, torch.device("cpu"))
    ids = torch.randint(0, 250, (1, 40))
    packed_hidden_states(model, ids, torch.arange(40)[None], (40,))
    with pytest.raises(RuntimeError, match="call it through packed_hidden_states"):
        model(input_ids=ids)


def test_a_model_whose_masks_are_not_windows_keeps_them_and_still_isolates():
    model = load_base_model(TINY, torch.device("cpu"))
    model.config.attention_chunk_size = 8
    ids = torch.randint(0, 250, (1, 40))
    alone = model.model(input_ids=ids[:, 20:], use_cache=False).last_hidden_state
    isolated = packed_hidden_states(
        model, ids, torch.cat([torch.arange(20), torch.arange(20)])[None], (20, 20)
    )[:, 20:]
    assert model.config._attn_implementation == "sdpa"
    assert (isolated - alone).abs().max() < 1e-5


@needs_smollm2
@needs_shared_data
def test_packed_equals_unpacked_on_the_real_model_and_real_data(smollm2):
    model, tokenizer = smollm2
    encoder = PromptEncoder(tokenizer, compose_config(["prompt=chatml"]).prompt)
    source = DataSourceConfig(
        path=str(SHARED_DATA / "train" / "lima.jsonl"), format=DataFormat.lima
    )
    all_examples = (encode_example(e, encoder, 1024) for e in load_source("lima", source)[:200])
    examples = sorted((e for e in all_examples if e), key=lambda e: len(e.ids))[:4]
    check_packed_equals_alone(model, examples, 1024)


def one_source(count):
    return Mix(np.zeros(count, int), np.full(count, 5), {"s": 1.0}, WeighBy.copies, seed=0)


def test_training_order_covers_every_epoch_once_and_depends_on_the_step_alone():
    examples = [encoded(f"s:{i}", 5) for i in range(10)]
    mix = one_source(10)
    order = TrainingOrder(mix, examples, TrainConfig(examples_per_step=4, epochs=2))
    assert (order.examples, order.steps) == (20, 5)
    steps = [[e.id for e in order.examples_of_step(step)] for step in range(5)]
    seen = [name for step in steps for name in step]
    assert sorted(seen[:10]) == sorted(seen[10:]) == sorted(e.id for e in examples)
    assert seen[:10] != seen[10:]
    again = TrainingOrder(mix, examples, TrainConfig(examples_per_step=4, epochs=2))
    assert [e.id for e in again.examples_of_step(3)] == steps[3]
    short = TrainingOrder(mix, examples, TrainConfig(examples_per_step=8, epochs=1))
    assert [len(short.examples_of_step(step)) for step in range(short.steps)] == [8, 2]


@pytest.mark.parametrize(
    ("keys", "examples", "steps"),
    [
        ({"epochs": 0.5}, 5, 2),
        ({"epochs": 2.5}, 25, 7),
        ({"epochs": 0.01}, 1, 1),  # never none at all
        ({"epochs": 3, "max_steps": 2}, 8, 2),
        ({"epochs": 1, "max_steps": 9}, 36, 9),  # 3.6 epochs
    ],
)
def test_a_longer_run_only_appends_to_the_order_of_a_shorter_one(keys, examples, steps):
    encoded_examples = OnlyIndexed([encoded(f"s:{i}", 5) for i in range(10)])
    mix = one_source(10)
    order = TrainingOrder(mix, encoded_examples, TrainConfig(examples_per_step=4, **keys))
    assert (order.examples, order.steps) == (examples, steps)
    seen = [e.id for step in range(steps) for e in order.examples_of_step(step)]
    longest = TrainingOrder(mix, encoded_examples, TrainConfig(examples_per_step=4, epochs=4))
    all_seen = [e.id for step in range(10) for e in longest.examples_of_step(step)]
    assert seen == all_seen[:examples]
    assert max(Counter(seen).values()) <= -(-examples // 10)  # each epoch has each example once


class OnlyIndexed(Sequence):
    """Examples that are read one at a time, as from a mapped file."""

    def __init__(self, items):
        self._items = items

    def __getitem__(self, index):
        return self._items[index]

    def __len__(self):
        return len(self._items)

    def __iter__(self):
        raise AssertionError("nobody may read them all")


def test_weights_that_draw_no_example_leave_no_step():
    order = TrainingOrder(one_source(0), [], TrainConfig(max_steps=5))
    assert (order.examples, order.steps) == (0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_packing_keeps_each_token_of_each_example_once_in_order_and_apart(seed):
    draw = np.random.default_rng(seed)
    examples = []
    for i in range(int(draw.integers(1, 60))):
        length = int(draw.integers(1, 101))
        ids = draw.integers(0, 1000, length)
        learned = draw.random(length) < 0.5
        examples.append(EncodedExample(f"e{i}", ids, targets_of(ids, learned), False))
    size, packing = int(draw.integers(1, 4)), bool(draw.integers(0, 2))
    seen = []
    for row in pack(examples, 100 * size if packing else size, packing):
        assert row.tokens <= 100 * size if packing else len(row.lengths) <= size
        ends = np.cumsum(row.lengths)
        whole = torch.full((row.tokens,), IGNORE_INDEX)
        whole[row.target_positions] = row.targets
        for name, end, length in zip(row.example_ids, ends, row.lengths, strict=True):
            example = examples[int(name[1:])]
            part = slice(end - length, end)
            assert row.input_ids[0, part].tolist() == example.ids.tolist()
            assert row.position_ids[0, part].tolist() == list(range(length))
            assert whole[part].tolist() == example.targets.tolist()
            seen.append(name)
    assert sorted(seen) == sorted(example.id for example in examples)


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_2048_tokens_are_97_percent_full(seed):
    draw = np.random.default_rng(seed)
    sizes = np.minimum(draw.lognormal(5.8, 1.0, 3000).astype(int) + 1, 2048).tolist()
    rows = best_fit(sizes, 2048, True)
    assert sum(sizes) / (2048 * len(rows)) >= 0.97
