"""Rows of several adapters over one base model: each answers as if it were alone."""

from dataclasses import replace

import pytest
import torch
from support.saved_adapters import NARROW, change_config, save_adapter, spoil_weights, tiny_base

from effchal.config import ConfigError
from effchal.decoding.contrast import Dola
from effchal.decoding.engine import Engine
from effchal.decoding.kv_cache import RowCache
from effchal.decoding.reading import parts_in_step
from effchal.decoding.sampling import SamplingParams
from effchal.decoding.score import Scorer
from effchal.decoding.taps import NewTokens, TappedModel
from effchal.kernels.shared_prefix import attention_with_shared_prefix
from effchal.model.adapter_names import BASE
from effchal.model.load import load_adapter
from effchal.model.route import Decoding, route_of, set_route

PROMPTS = [[5, 9, 11, 40], [5, 9, 11, 41, 7], [3, 8] * 30, [5, 9, 11, 40]]
GREEDY = SamplingParams(max_new_tokens=8, alternatives=1, ignore_eos=True)
SETTINGS = [
    GREEDY,
    replace(GREEDY, contrast=Dola((0, 1))),
    replace(GREEDY, temperature=0.8, seed=3, repetition_penalty=1.2),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of two adapters, of other ranks and other layers."""
    home = tmp_path_factory.mktemp("adapters")
    first = save_adapter(home / "wide", 1, use_rslora=True)
    return first, save_adapter(home / "narrow", 2, r=8, targets=NARROW)


def engine_of(model, tokenizer, decoding=Decoding.fused):
    set_route(model, replace(route_of(model), decoding=decoding))
    return Engine(model, tokenizer)


def together(folders, tokenizer, decoding=Decoding.fused):
    engine = engine_of(tiny_base(), tokenizer, decoding)
    return engine, [BASE, *(engine.model.load_adapter(folder) for folder in folders)]


def alone(folders, tokenizer):
    models = [tiny_base(), *(load_adapter(tiny_base(), folder) for folder in folders)]
    return [engine_of(model, tokenizer) for model in models]


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.ids == other.ids
        assert one.finish_reason == other.finish_reason
        values = [[token.logprob for token in each.all_tokens] for each in (one, other)]
        assert values[0] == pytest.approx(values[1], abs=2e-5)


@pytest.mark.parametrize("decoding", list(Decoding))
def test_rows_of_two_adapters_and_the_base_answer_as_alone(tiny_engine, folders, decoding):
    engine, names = together(folders, tiny_engine.tokenizer, decoding)
    assert engine.model.is_fused == (decoding is Decoding.fused)
    prompts = [prompt for prompt in PROMPTS for _ in names]
    rows = tuple(name for _ in PROMPTS for name in names)
    found = list(engine.generate(prompts, [SETTINGS] * len(prompts), len(prompts), rows))
    expected = [
        list(each.generate(PROMPTS, [SETTINGS] * len(PROMPTS), len(PROMPTS)))
        for each in alone(folders, tiny_engine.tokenizer)
    ]
    for number, answers in enumerate(found):
        assert_equal(answers, expected[number % len(names)][number // len(names)])
    texts = {tuple(answers[0].ids) for answers in found[: len(names)]}
    assert len(texts) == len(names)  # the adapters do something


def test_what_prompts_begin_with_alike_is_read_once_for_each_adapter(
    tiny_engine, folders, monkeypatch
):
    rows_read = []

    def counted(q, k, v, mask, shared, reads, scale):
        rows_read.append((shared, [(read.keys, read.rows.tolist()) for read in reads.reads]))
        return attention_with_shared_prefix(q, k, v, mask, shared, reads, scale)

    monkeypatch.setattr("effchal.kernels.fused_forward.attention_with_shared_prefix", counted)
    monkeypatch.setattr("effchal.kernels.shared_prefix.WORTH_SHARING", 60)
    engine, names = together(folders, tiny_engine.tokenizer)
    examples = [3, 8] * 15
    prompts = [[*examples, 7, 9], [*examples, 40, 2], [*examples, 11], [*examples, 7, 9, 5]]
    rows = (names[1], BASE, names[1], BASE)
    started = [engine.start(*each) for each in zip(prompts, [[GREEDY]] * 4, rows, strict=True)]
    while engine.rows:
        engine.step()
    base, wide, _ = alone(folders, tiny_engine.tokenizer)
    expected = [(base if name == BASE else wide).complete for name in rows]
    assert_equal(
        [sequence.completion() for (sequence,) in started],
        [complete(ids, GREEDY) for complete, ids in zip(expected, prompts, strict=True)],
    )
    assert (30, [(slice(0, 2, 1), [0, 2, 1, 3])]) in rows_read


def test_a_prompt_read_in_a_step_of_other_adapters_answers_as_alone(tiny_engine, folders):
    engine, names = together(folders, tiny_engine.tokenizer)
    started = [engine.start(PROMPTS[2], [GREEDY], names[1])]
    for name in (names[2], BASE):
        prefill = engine.begin(PROMPTS[0], [GREEDY], name)
        while prefill.left:
            ((_, count),) = parts = parts_in_step(engine, [prefill], 2)
            assert count <= 2
            engine.step(parts)
        started.append(prefill.sequences)
    while engine.rows:
        engine.step()
    base, wide, narrow = alone(folders, tiny_engine.tokenizer)
    pairs = [(wide, PROMPTS[2]), (narrow, PROMPTS[0]), (base, PROMPTS[0])]
    found = [sequence.completion() for (sequence,) in started]
    assert_equal(found, [engine.complete(prompt, GREEDY) for engine, prompt in pairs])


def test_what_an_adapter_made_of_a_prompt_is_no_other_ones(tiny_engine, folders):
    engine, names = together(folders, tiny_engine.tokenizer)
    long = [3, 8] * 40
    for name in names:
        prefill = engine.begin(long, [], name)
        engine.prefill(prefill, 100)
        engine.keep_prefix(prefill)
    for name, one in zip(names, alone(folders, tiny_engine.tokenizer), strict=True):
        (found,) = next(engine.generate([[*long, 5]], [[GREEDY]], 1, (name,)))
        assert engine.begin([*long, 5], [], name).reused_tokens == 64
        assert_equal([found], [one.complete([*long, 5], GREEDY)])


@pytest.mark.parametrize("decoding", [Decoding.fused, Decoding.library])
def test_continuations_are_scored_with_an_adapter(tiny_engine, folders, decoding):
    engine, names = together(folders, tiny_engine.tokenizer, decoding)
    contrasts = [GREEDY.contrast, Dola((0, 1))]
    choices = [[4, 6], [7], [4, 6, 9]]
    for name, one in zip(names, alone(folders, tiny_engine.tokenizer), strict=True):
        found = Scorer(engine.model, name).score(PROMPTS[0], choices, contrasts)
        expected = Scorer(one.model).score(PROMPTS[0], choices, contrasts)
        for scores, reference in zip(found, expected, strict=True):
            assert scores.logprobs == pytest.approx(reference.logprobs, abs=2e-5)


def test_an_adapter_is_dropped_and_loaded_again(tiny_engine, folders):
    base, wide, narrow = alone(folders, tiny_engine.tokenizer)
    engine, (_, first, second) = together(folders, tiny_engine.tokenizer)
    engine.model.drop_adapter(first)
    (found,) = next(engine.generate(PROMPTS[:1], [[GREEDY]], 1, (second,)))
    assert_equal([found], [narrow.complete(PROMPTS[0], GREEDY)])
    engine.model.drop_adapter(second)
    (found,) = next(engine.generate(PROMPTS[:1], [[GREEDY]], 1))
    assert_equal([found], [base.complete(PROMPTS[0], GREEDY)])
    again = engine.model.load_adapter(folders[0])
    assert again not in (first, second)
    (found,) = next(engine.generate(PROMPTS[:1], [[GREEDY]], 1, (again,)))
    assert_equal([found], [wide.complete(PROMPTS[0], GREEDY)])


def test_ends_are_of_the_prompt_they_came_with(tiny_engine, folders):
    engine, names = together(folders, tiny_engine.tokenizer)
    plain = replace(GREEDY, ignore_eos=False)
    (whole,) = next(engine.generate(PROMPTS[:1], [[plain]], 1, (names[2],)))
    ends = replace(plain, ends=frozenset(whole.ids[2:3]))
    found = next(engine.generate(PROMPTS[:1], [[plain, ends]], 1, (names[2],)))
    assert found[0].ids == whole.ids
    assert found[1].ids == whole.ids[: whole.ids.index(whole.ids[2]) + 1]
    assert found[1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"use_dora": True}, "use_dora=True; only plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, "serve this one alone"),
        ({"target_modules": ["q_proj", "lm_head"]}, "adapts lm_head"),
        ({"peft_type": "IA3"}, "it must be LORA"),
        ({"r": 5}, "no adapter for this base model"),
        # The second by peft 0.18.
        ({"target_modules": ["no_such_layer"]}, "no adapter for this base model|fits no layer"),
    ],
)
def test_another_adapter_is_refused_and_leaves_the_others(tiny_engine, tmp_path, keys, message):
    engine, (_, name) = together([save_adapter(tmp_path / "one", 1)], tiny_engine.tokenizer)
    (before,) = next(engine.generate(PROMPTS[:1], [[GREEDY]], 1, (name,)))
    other = save_adapter(tmp_path / "other", 2)
    change_config(other, **keys)
    with pytest.raises(ConfigError, match=message):
        engine.model.load_adapter(other)
    (after,) = next(engine.generate(PROMPTS[:1], [[GREEDY]], 1, (name,)))
    assert_equal([after], [before])


def test_a_model_with_an_adapter_of_its_own_takes_no_other(folders):
    model = load_adapter(tiny_base(), folders[0])
    with pytest.raises(ConfigError, match="has an adapter of its own; load its base model"):
        TappedModel(model).load_adapter(folders[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_could_spoil_its_neighbours_is_refused(tiny_engine, tmp_path, value):
    engine = engine_of(tiny_base(), tiny_engine.tokenizer)
    folder = save_adapter(tmp_path / "spoilt", 1)
    spoil_weights(folder, value)
    with pytest.raises(ConfigError, match="not finite"):
        engine.model.load_adapter(folder)
    assert engine.complete(PROMPTS[0], GREEDY).ids == tiny_engine.complete(PROMPTS[0], GREEDY).ids


def test_an_adapter_that_overflows_spoils_its_own_rows_alone(tiny_engine, folders, tmp_path):
    engine, (_, good, _) = together(folders, tiny_engine.tokenizer)
    huge = save_adapter(tmp_path / "huge", 1)
    spoil_weights(huge, 3e38)  # finite, but no product with it is
    rows, cache = (good, BASE, engine.model.load_adapter(huge)), RowCache()
    for row, name in enumerate(rows):
        cache.add_row()
        prompt = NewTokens(cache, row, torch.tensor([[5, 9, 11]]), adapters=(name,))
        engine.model.extend([prompt], (), torch.tensor([2]))
    new = NewTokens(cache, 0, torch.tensor([[40]] * 3), adapters=rows)
    states = engine.model.extend([new], (), torch.arange(3))  # (1, 3, D)
    assert states[-1].isfinite().all(dim=-1).tolist() == [True, True, False]


def test_layers_that_are_not_known_take_the_library_s(tiny_engine, folders, monkeypatch):
    engine = engine_of(tiny_base(), tiny_engine.tokenizer)
    monkeypatch.setattr("effchal.kernels.fused_forward.parts_of", lambda layer: None)
    name = engine.model.load_adapter(folders[0])
    assert not engine.model.is_fused
    (found,) = next(engine.generate(PROMPTS[:1], [[GREEDY]], 1, (name,)))
    wide = alone(folders, tiny_engine.tokenizer)[1]
    assert_equal([found], [wide.complete(PROMPTS[0], GREEDY)])


def test_short_prompts_of_one_adapter_are_read_together(tiny_engine, folders, monkeypatch):
    engine, (base, wide, narrow) = together(folders, tiny_engine.tokenizer)
    long = [7, 3] * 200  # more than goes together
    asked = [(PROMPTS[0], wide), (PROMPTS[2], base), (long, wide), (PROMPTS[1], wide)]
    asked += [(PROMPTS[1], base), (PROMPTS[3], wide), ([4], narrow), (PROMPTS[0], base)]
    prompts, names = [list(each) for each in zip(*asked, strict=True)]
    expected = [engine.start(ids, SETTINGS, name) for ids, name in asked]
    while engine.rows:
        engine.step()
    read, extend = [], engine.model.extend

    def counting(new, taps, at):
        read.append([each.ids.shape[1] for each in new])
        return extend(new, taps, at)

    monkeypatch.setattr(engine.model, "extend", counting)
    found = list(engine.generate(prompts, [SETTINGS] * len(asked), len(asked), tuple(names)))
    prompts_read = [lengths for lengths in read if lengths != [1]]
    assert prompts_read[:4] == [[4], [400], [5, 4], [60, 5, 4]]
    for answers, alone_ in zip(found, expected, strict=True):
        assert_equal(answers, [each.completion() for each in alone_])


def test_an_answer_that_is_over_at_once_joins_no_row(tiny_engine, folders):
    engine, _ = together(folders, tiny_engine.tokenizer)
    params = [[GREEDY], [replace(GREEDY, max_new_tokens=0)], [replace(GREEDY, max_new_tokens=1)]]
    found = list(engine.generate(PROMPTS[:3], params, 3))
    assert [len(answers[0].ids) for answers in found] == [8, 0, 1]
    assert_equal(found[0], [engine.complete(PROMPTS[0], GREEDY)])
    assert_equal(found[2], [engine.complete(PROMPTS[2], params[2][0])])
