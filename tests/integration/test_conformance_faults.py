"""`effchal conformance`: each check passes where its rule is kept, and fails on its own fault."""

import pytest
from support.faulty_server import Faulty

from effchal.cli.arguments import hydra_arguments
from effchal.config import ConfigError, ConformanceConfig
from effchal.config.words import own_override
from effchal.conformance_checks import (
    around,
    completions,
    load,
    process_answers,
    process_decoding,
    tokenizer,
)
from effchal.conformance_checks.client import Exchange, Server
from effchal.conformance_checks.run import CHECKS, chosen, connect, run_checks
from effchal.conformance_checks.table import line_of, print_table, summary
from effchal.conformance_checks.verdict import Status, Verdict
from effchal.serving.ready import free_port

OUTSIDE = {check.name for check in around.OUTSIDE}
NEEDED = ("process_helm_keys", "process_answer_keys", "tokenize_answers")
# Of the contest's published sample, each with the one check that it fails.
SAMPLE_FAULTS = {
    "stops ignored": "process_stops",
    "of /v1 stops ignored": "completions_stop",
    "truncation ignored": "tokenize_truncation",
    "BOS added": "tokenize_no_bos",
    "BOS counted": "tokenize_truncation",
    "special decoded": "decode_skips_special",
    "no /decode": "decode_answers",
    "token id as time": "request_time_seconds",
}
FAULTS = {
    "max_new_tokens wanted": "process_prompt_alone",
    "HELM's keys refused": "process_helm_keys",
    "no logprob": "process_answer_keys",
    "minus infinity": "process_finite",
    "tokens lose spaces": "process_tokens_spell_text",
    "one token more": "process_max_new_tokens",
    "list of texts": "process_one_completion",
    "no scoring": "process_scores_prompt",
    "no echo with an answer": "process_echo_with_answer",
    "first log-probability": "process_first_echoed_logprob",
    "older names refused": "process_older_names",
    "unknown keys refused": "process_unknown_keys",
    "letter goes on": "process_letter_ends_answer",
    "temperature ignored": "process_greedy",
    "top_p ignored": "process_top_p",
    "too many alternatives": "process_alternatives",
    "alternatives sample": "process_alternatives_do_not_sample",
    "stops cut text alone": "process_stops_cut_tokens",
    "stops by token": "process_stops_across_tokens",
    "tokens as texts": "tokenize_answers",
    "BOS with prompt": "tokenize_other_names",
    "decode cleans up": "decode_round_trip",
    "prefix token is special": "decode_helm_prefix_token",
    "no text as prompt": "completions_text",
    "first prompt alone": "completions_texts",
    "no ids as prompt": "completions_ids",
    "no text_offset": "completions_logprobs",
    "first is 0": "completions_echo",
    "offsets in tokens": "completions_text_offset",
    "rounded": "completions_greedy_exact",
    "of /v1 temperature ignored": "completions_greedy",
    "of /v1 top_p ignored": "completions_top_p",
    "n ignored": "completions_n",
    "seed ignored": "completions_seed",
    "no [DONE]": "completions_stream",
    "no /v1/models": "models",
    "no /tokenizer_info": "tokenizer_info",
    "no /detokenize": "detokenize",
    "no /health": "health",
    "not ready": "ready",
    "metrics as JSON": "metrics",
    "422": "error_status_400",
    "errors of another form": "error_form",
    "400 for too long": "error_status_413",
    "500": "never_500",
    "short window": "process_2048_tokens",
}
FAULTS_UNDER_LOAD = {
    "busy": "process_contest_requests",
    "one at a time": "nothing_waits_behind_generations",
    "no Retry-After": "refused_past_the_bound",
}


QUICK = [check for check in CHECKS if check.name not in FAULTS_UNDER_LOAD.values()]
GROUPS = (process_answers, process_decoding, tokenizer, completions, around, load)


@pytest.fixture(scope="module")
def faulty():
    with Faulty() as made:
        yield made


def verdicts(faulty, fault="", checks=CHECKS):
    faulty.fault = fault
    server = Server(faulty.url, timeout_s=20)
    try:
        return run_checks(server, checks)
    finally:
        server.close()


def broken(found):
    return [each.name for each in found if each.status is Status.broken]


def reasons(found):
    return {each.name: each.reason for each in found if each.reason}


def beside(name):
    """The quick checks of a check's group, and what they need."""
    group = next(each.CHECKS for each in GROUPS if name in {check.name for check in each.CHECKS})
    wanted = {check.ask for check in group}
    for check in reversed(QUICK):
        wanted |= set(check.needs) if check.ask in wanted else set()
    return [check for check in QUICK if check.ask in wanted]


def test_a_server_without_a_fault_keeps_every_rule_that_can_be_told(faulty):
    found = verdicts(faulty, checks=QUICK)
    assert broken(found) == []
    assert reasons(found).keys() == OUTSIDE


@pytest.mark.parametrize(("fault", "name"), SAMPLE_FAULTS.items())
def test_each_fault_of_the_sample_fails_one_check_of_all(faulty, fault, name):
    found = verdicts(faulty, fault, QUICK)
    assert broken(found) == [name], reasons(found)
    (verdict,) = (each for each in found if each.name == name)
    assert verdict.exchanges[-1].to_dict().keys() >= {"sent", "received", "status"}
    assert verdict.reason in line_of(verdict)


@pytest.mark.parametrize(("fault", "name"), FAULTS.items())
def test_each_other_fault_fails_its_own_check_and_none_beside_it(faulty, fault, name):
    found = verdicts(faulty, fault, beside(name))
    assert broken(found) == [name], reasons(found)


@pytest.mark.parametrize(("fault", "name"), [("", None), *FAULTS_UNDER_LOAD.items()])
def test_faults_under_load(faulty, fault, name):
    faulty.seconds = 0.15
    checks = [check for check in CHECKS if check in load.CHECKS or check.name in NEEDED]
    if name is not None:
        checks = checks[: 1 + [check.name for check in checks].index(name)]
    found = verdicts(faulty, fault, checks)
    faulty.seconds = 0.0
    assert broken(found) == [name] * bool(name), reasons(found)
    assert name is not None or reasons(found) == {}


def test_every_check_that_can_tell_has_a_fault():
    caught = {*SAMPLE_FAULTS.values(), *FAULTS.values(), *FAULTS_UNDER_LOAD.values()}
    assert {check.name for check in CHECKS} == caught | OUTSIDE


def test_a_pattern_chooses_checks_and_a_wrong_one_is_named():
    assert [check.name for check in chosen(["decode_a*", "health"])] == ["decode_answers", "health"]
    with pytest.raises(ConfigError, match=r"has proces_stops.*did you mean process_stops\?"):
        chosen(["proces_stops"])


@pytest.mark.parametrize(
    ("word", "override"),
    [
        ("http://127.0.0.1:80/x?y=1", "conformance.url='http://127.0.0.1:80/x?y=1'"),
        ("only=a,b*", "conformance.only=[a,b*]"),
        ("only=[a]", "conformance.only=[a]"),
        ("timeout_s=5", "conformance.timeout_s=5"),
        ("list", "conformance.show_checks=true"),
        ("name=x", "name=x"),
    ],
)
def test_short_words_stand_for_keys(word, override):
    assert own_override("conformance", word) == override


@pytest.mark.parametrize(
    ("status", "message"), [(401, "wants one: set EFFCHAL_TOKEN"), (503, "not ready")]
)
def test_a_server_that_lets_nobody_ask_is_told(faulty, status, message):
    faulty.fault = f"{status} for all"
    with pytest.raises(ConfigError, match=message):
        connect(ConformanceConfig(url=faulty.url), "")


def test_no_server_is_told():
    with pytest.raises(ConfigError, match="no server; type its address"):
        connect(ConformanceConfig(), "")
    with pytest.raises(ConfigError, match="is it the server's address"):
        connect(ConformanceConfig(url=f"http://127.0.0.1:{free_port()}"), "")
    with pytest.raises(ConfigError, match=r"conformance\.url must be an address"):
        ConformanceConfig(url="127.0.0.1:80")


def test_a_folder_is_no_address():
    with pytest.raises(ConfigError, match="outputs: effchal conformance takes no folder"):
        hydra_arguments("conformance", ["outputs"])


def test_a_table_shows_what_a_server_says_as_plain_text(capsys):
    sent = Exchange("POST", "/process", "{}", 200, {}, "[red]\x1b[2Jall[/red]")
    verdicts = [
        Verdict("health", "a rule", Status.kept, "", 0.1, [sent]),
        Verdict("models", "a rule", Status.broken, "it says [b]\x07no", 0.1, [sent]),
    ]
    print_table(verdicts)
    text = capsys.readouterr().out
    assert "it says [b]\ufffdno" in text
    assert "received: 200 [red]\ufffd[2Jall[/red]" in text
    assert "\x07" not in text
    assert summary(verdicts) == "rules: 1 kept, 1 broken, 0 cannot be told"
