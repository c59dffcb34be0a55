"""lm-eval's requests as ids and settings, and what may be asked for."""

import pytest
from support.configs import compose_config

from effchal.cli.arguments import hydra_arguments
from effchal.config import ConfigError, LmEvalConfig
from effchal.decoding.contrast import Dola
from effchal.evaluation.lm_eval.encode import RequestEncoder, params_of, rolling_windows
from effchal.evaluation.variants import Variant

GREEDY = Variant("greedy")


@pytest.fixture
def encoder(tiny_engine):
    return RequestEncoder(tiny_engine.tokenizer, 64)


def test_a_pair_is_encoded_as_one_text_and_its_spaces_go_to_the_continuation(encoder):
    ids = encoder.tokenizer
    (pair,) = encoder.pairs([["A question?  ", "an answer"]])
    context = ids("A question?").input_ids
    assert pair == (context, ids("A question?  an answer").input_ids[len(context) :])
    assert encoder.pairs([["A question?", "  an answer"]]) == [pair]


def test_a_continuation_without_a_context_follows_the_first_token(encoder):
    ids = encoder.tokenizer("word", add_special_tokens=False).input_ids
    first = encoder.tokenizer.bos_token_id or encoder.tokenizer.eos_token_id
    assert encoder.pairs([["", "word"]]) == [([first], ids)]


def test_the_beginning_of_sequence_token_is_not_doubled(encoder):
    tokenizer = encoder.tokenizer
    spelled = tokenizer.decode([tokenizer.bos_token_id or tokenizer.eos_token_id])
    plain = tokenizer("word", add_special_tokens=False).input_ids
    (ids,) = encoder.ids([f"{spelled}word"])
    assert ids == [tokenizer.convert_tokens_to_ids(spelled), *plain]


def test_what_the_model_has_no_positions_for_is_cut_from_the_left(encoder):
    ((given, scored),) = encoder.pairs([["word " * 200 + "end", " of it"]])
    assert len(given) + len(scored) == 65  # the last token is not read
    assert encoder.tokenizer.decode(given).endswith("end")
    (prompt,) = encoder.prompts(["word " * 200 + "end"], [60])
    assert len(prompt) == 4
    with pytest.raises(ConfigError, match="asks for 64 new tokens, and this model takes 64"):
        encoder.prompts(["word"], [64])
    with pytest.raises(ConfigError, match="scores 1 to 64 after at least one"):
        encoder.pairs([["word", " word" * 200]])
    with pytest.raises(ConfigError, match="a task scores '', 0 tokens after"):
        encoder.pairs([["word", ""]])


def test_windows_score_each_token_once_after_as_many_as_fit():
    windows = list(rolling_windows([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0, 4))
    assert windows == [([0], [1, 2, 3, 4]), ([4], [5, 6, 7, 8]), ([6, 7, 8], [9, 10])]


def test_a_task_s_settings_are_taken_as_lm_eval_takes_them():
    settings = {"until": ["\n", ""], "max_gen_toks": 9, "max_tokens": 7, "temperature": 0.6}
    params = params_of(settings, GREEDY, "gsm8k", "key")
    assert (params.stops, params.max_new_tokens, params.temperature) == (("\n",), 9, 0.6)
    assert params_of(settings, GREEDY, "gsm8k", "other").seed != params.seed
    params = params_of(settings | {"do_sample": False, "until": "x"}, GREEDY, "gsm8k", "key")
    assert (params.stops, params.temperature) == (("x",), 0.0)
    assert params_of({"top_p": None}, GREEDY, "gsm8k", "key").max_new_tokens == 256


def test_a_decoding_wins_over_a_task_s_settings():
    settings = {"temperature": 0.6, "do_sample": True, "repetition_penalty": 1.1}
    dola = Variant("dola", Dola((0,)), repetition_penalty=1.2)
    params = params_of(settings, dola, "gsm8k", "key")
    assert params.repetition_penalty == 1.2
    assert params.contrast == Dola((0,))
    sample = Variant("sample", temperature=0.9, top_p=0.8)
    params = params_of(settings, sample, "gsm8k", "key")
    assert (params.temperature, params.top_p, params.repetition_penalty) == (0.9, 0.8, 1.1)


def test_a_setting_without_an_equal_is_refused_with_its_task():
    reason = "task gsm8k: generation_kwargs has num_beams, which effchal has no equal of"
    with pytest.raises(ConfigError, match=reason):
        params_of({"num_beams": 4}, GREEDY, "gsm8k", "key")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gen_kwargs": {"temprature": 1}}, "did you mean temperature"),
        ({"gen_kwargs": {"do_sample": "yes"}}, "gen_kwargs.do_sample cannot be 'yes'"),
        ({"gen_kwargs": {"until": [3]}}, r"gen_kwargs.until cannot be \[3\]"),
        ({"limit": 1.5}, "lm_eval.limit must be a whole number, or a share below 1, got 1.5"),
        ({"num_fewshot": -1}, "lm_eval.num_fewshot must be at least 0"),
        ({"tasks": ["gsm8k", "gsm8k"]}, "lm_eval.tasks has gsm8k more than once"),
    ],
)
def test_a_wrong_option_is_named(keys, message):
    with pytest.raises(ConfigError, match=message):
        LmEvalConfig(**keys)


def test_options_are_typed_by_lm_evals_names():
    typed = ["tasks=[gsm8k,ifeval]", "num_fewshot=5", "gen_kwargs={temperature: 0.7}", "name=x"]
    typed += ["lm_eval.gen_kwargs.do_sample=true", "limit=0.5", "include_path=~/tasks"]
    cfg = compose_config(hydra_arguments("lm_eval", typed))
    assert cfg.lm_eval.tasks == ["gsm8k", "ifeval"]
    assert (cfg.lm_eval.num_fewshot, cfg.lm_eval.limit, cfg.name) == (5, 0.5, "x")
    assert cfg.lm_eval.gen_kwargs == {"temperature": 0.7, "do_sample": True}
    assert cfg.lm_eval.include_path.endswith("/tasks")
    assert "~" not in cfg.lm_eval.include_path
