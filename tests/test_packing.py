import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED_DATA, needs_shared_data, needs_smollm2

from effchal.choices import DataFormat, Dtype
from effchal.cli import compose_config
from effchal.config import DataSourceConfig, ModelConfig, PromptConfig
from effchal.data.mix import Mix
from effchal.data.packing import IGNORE_INDEX, EncodedExample, TrainingOrder, encode_example, pack
from effchal.data.sources import Example, load_source
from effchal.model import load_base_model, load_tokenizer
from effchal.parts import head, packed_hidden_states
from effchal.prompts import PromptEncoder, Turn

TINY = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)


def encoded(name, length):
    return EncodedExample(name, list(range(1, length + 1)), [*range(2, length + 1), IGNORE_INDEX], False)


@pytest.fixture(scope="module")
def encoder():
    return PromptEncoder(load_tokenizer(TINY), PromptConfig(user="{content}:"))


def test_targets_are_the_answer_and_its_end(encoder):
    example = Example("s:0", (Turn("user", "ab"), Turn("assistant", "cd")))
    result = encode_example(example, encoder, 100, loss_on_prompt=False)
    a, b, colon, c, d, end = result.ids
    assert end == encoder.eos_id
    assert result.targets == [IGNORE_INDEX, IGNORE_INDEX, c, d, end, IGNORE_INDEX]
    whole = encode_example(example, encoder, 100, loss_on_prompt=True)
    assert whole.targets == [b, colon, c, d, end, IGNORE_INDEX]
    assert a in result.ids


def test_every_answer_of_a_conversation_is_a_target(encoder):
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"))
    result = encode_example(Example("s:0", turns), encoder, 100, loss_on_prompt=False)
    targets = [target for target in result.targets if target != IGNORE_INDEX]
    assert encoder.tokenizer.decode(targets) == "b</s>d</s>"


def test_a_cut_answer_does_not_teach_to_stop(encoder):
    example = Example("s:0", (Turn("user", "ab"), Turn("assistant", "c" * 50)))
    result = encode_example(example, encoder, 20, loss_on_prompt=False)
    assert (len(result.ids), result.truncated) == (20, True)
    assert encoder.eos_id not in result.targets
    assert encode_example(example, encoder, 3, loss_on_prompt=False) is None


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_packing_holds_every_example_once_and_wastes_little(micro_batch_size):
    lengths = [70, 30, 50, 50, 20, 80, 10, 90, 5, 95]
    examples = [encoded(f"e{i}", length) for i, length in enumerate(lengths)]
    micro_batches = pack(examples, 100, micro_batch_size, packing=True, pad_id=0)
    assert sorted(name for mb in micro_batches for name in mb.example_ids) == sorted(e.id for e in examples)
    assert sum(len(mb.input_ids) for mb in micro_batches) == 5  # 500 tokens in rows of 100
    assert sum(mb.tokens for mb in micro_batches) == 500
    assert sum(mb.target_tokens for mb in micro_batches) == 500 - len(examples)
    for mb in micro_batches:
        starts = (mb.position_ids == 0).sum()
        pads = mb.input_ids.numel() - mb.tokens
        assert starts - pads == len(mb.example_ids)


def test_without_packing_each_row_is_one_example():
    micro_batches = pack([encoded("a", 5), encoded("b", 9)], 100, 2, packing=False, pad_id=0)
    (mb,) = micro_batches
    assert mb.input_ids.shape == (2, 9)
    assert mb.targets[1, 4:].tolist() == [IGNORE_INDEX] * 5
    assert mb.position_ids[1].tolist() == [0, 1, 2, 3, 4, 0, 0, 0, 0]


def losses_by_example(model, micro_batches):
    """Mean loss of each example, by id."""
    result = {}
    for mb in micro_batches:
        with torch.no_grad():
            logits = head(model)(packed_hidden_states(model, mb.input_ids, mb.position_ids))
        loss = F.cross_entropy(logits.flatten(0, 1).float(), mb.targets.flatten(), reduction="none")
        loss = loss.reshape(mb.targets.shape)
        # Examples lie in rows one after the other, each starting at position 0; pads have no target.
        starts = [(b, t) for b, t in (mb.position_ids == 0).nonzero().tolist() if (mb.targets[b, t:] >= 0).any()]
        for name, (b, start) in zip(mb.example_ids, starts, strict=True):
            later = [t for row, t in starts if row == b and t > start]
            piece = slice(start, later[0] if later else None)
            result[name] = float(loss[b, piece].sum() / (mb.targets[b, piece] >= 0).sum())
    return result


def check_packed_equals_alone(model, examples, max_seq_len, pad_id):
    alone = losses_by_example(model, [mb for e in examples for mb in pack([e], max_seq_len, 1, True, pad_id)])
    for micro_batch_size in (1, 2):
        packed = pack(examples, max_seq_len, micro_batch_size, True, pad_id)
        assert sum(len(mb.input_ids) for mb in packed) < len(examples)
        together = losses_by_example(model, packed)
        assert together.keys() == alone.keys()
        assert max(abs(together[name] - alone[name]) for name in alone) < 1e-4


def test_packed_equals_unpacked_on_a_tiny_model():
    model, tokenizer = load_base_model(TINY, torch.device("cpu")), load_tokenizer(TINY)
    encoder = PromptEncoder(tokenizer, PromptConfig())
    source = DataSourceConfig(path="builtin:instructions.jsonl", format=DataFormat.platypus)
    examples = [encode_example(e, encoder, 2048, False) for e in load_source("s", source)[:12]]
    check_packed_equals_alone(model, examples, 2048, tokenizer.pad_token_id)


def test_packed_equals_unpacked_on_mistrals_shape_with_a_sliding_window(tmp_path):
    import shutil

    import transformers

    from effchal.model import base_model_path

    tokenizer = load_tokenizer(TINY)
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 64},
    )
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{base_model_path(TINY)}/{name}", tmp_path)
    model = load_base_model(ModelConfig(name=str(tmp_path), dtype=Dtype.float32), torch.device("cpu"))
    source = DataSourceConfig(path="builtin:instructions.jsonl", format=DataFormat.platypus)
    encoder = PromptEncoder(tokenizer, PromptConfig())
    examples = [encode_example(e, encoder, 1024, False) for e in load_source("s", source)[:6]]
    assert max(len(e.ids) for e in examples) > 128
    check_packed_equals_alone(model, examples, 1024, tokenizer.pad_token_id)


def test_an_all_ones_mask_would_leak_which_is_why_there_is_none():
    model = load_base_model(TINY, torch.device("cpu"))
    ids = torch.randint(0, 250, (1, 40))
    positions = torch.cat([torch.arange(20), torch.arange(20)])[None]
    alone = model.model(input_ids=ids[:, 20:], use_cache=False).last_hidden_state
    isolated = packed_hidden_states(model, ids, positions)[:, 20:]
    options = {"input_ids": ids, "position_ids": positions}
    masked = model.model(**options, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state[:, 20:]
    cached = model.model(**options).last_hidden_state[:, 20:]
    assert (isolated - alone).abs().max() < 1e-5
    assert (masked - alone).abs().max() > 1e-3
    assert (cached - alone).abs().max() > 1e-3


@needs_smollm2
@needs_shared_data
def test_packed_equals_unpacked_on_the_real_model_and_real_data(smollm2):
    model, tokenizer = smollm2
    encoder = PromptEncoder(tokenizer, compose_config(["prompt=chatml"]).prompt)
    source = DataSourceConfig(path=str(SHARED_DATA / "train" / "lima.jsonl"), format=DataFormat.lima)
    all_examples = (encode_example(e, encoder, 1024, False) for e in load_source("lima", source)[:200])
    examples = sorted((e for e in all_examples if e), key=lambda e: len(e.ids))[:10]
    check_packed_equals_alone(model, examples, 1024, tokenizer.pad_token_id)


def test_training_order_covers_every_epoch_once_and_depends_on_the_step_alone():
    train = [Example(f"s:{i}", ()) for i in range(10)]
    examples = [encoded(e.id, 5) for e in train]
    order = TrainingOrder(Mix(train, [], {"s": 1.0}, seed=0), examples, examples_per_step=4, epochs=2)
    assert (order.examples, order.steps) == (20, 5)
    steps = [[e.id for e in order.examples_of_step(step)] for step in range(5)]
    seen = [name for step in steps for name in step]
    assert sorted(seen[:10]) == sorted(seen[10:]) == sorted(e.id for e in train)
    assert seen[:10] != seen[10:]
    again = TrainingOrder(Mix(train, [], {"s": 1.0}, seed=0), examples, 4, 2)
    assert [e.id for e in again.examples_of_step(3)] == steps[3]
    short = TrainingOrder(Mix(train, [], {"s": 1.0}, seed=0), examples, 8, 1)
    assert [len(short.examples_of_step(step)) for step in range(short.steps)] == [8, 2]
