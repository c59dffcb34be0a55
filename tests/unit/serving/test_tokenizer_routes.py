"""What clients learn of the model and its tokenizer."""

import jinja2
from support.http_client import post

from effchal.config import PromptConfig
from effchal.prompts.encoder import PromptEncoder, Turn


def test_tokenizers_of_other_clients_see_special_tokens(client, service):
    info = client.get("/tokenizer_info").get_json()
    eos = info["eos_token"]
    assert post(client, "/tokenize", {"prompt": eos})["tokens"] == [service.loaded().encoder.eos_id]
    assert len(post(client, "/tokenize", {"text": eos})["tokens"]) > 1
    both = post(client, "/tokenize", {"prompt": "ab", "add_special_tokens": True})
    assert both["tokens"] == service.loaded().encoder.bos_ids + service.loaded().encoder.text_ids(
        "ab"
    )
    assert both["count"] == len(both["tokens"])
    tokens = [*service.loaded().encoder.text_ids("ab"), service.loaded().encoder.eos_id]
    assert post(client, "/detokenize", {"tokens": tokens})["prompt"] == "ab" + eos
    assert post(client, "/decode", {"tokens": tokens})["text"] == "ab"


def test_the_chat_template_told_to_clients_is_the_one_of_the_training(client, service):
    template = client.get("/tokenizer_info").get_json()["chat_template"]
    turns = [
        *[
            Turn("system", "Be {{ brief }}."),
            Turn("user", "a {content}"),
            Turn("assistant", "b"),
            Turn("user", "c"),
        ],
        *[Turn("assistant", "d\n"), Turn("user", "")],
    ]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    for count in (2, 4, 6):
        text = (
            jinja2.Environment()
            .from_string(template)
            .render(messages=messages[:count], add_generation_prompt=True)
        )
        ids = service.loaded().encoder.prompt_ids(turns[:count])
        assert service.loaded().encoder.raw_ids(text) == ids


def test_templates_may_hold_quotes_braces_and_special_tokens(tiny_engine):
    cfg = PromptConfig(
        system="<s>{{ 'x' }} {content}\n", user='"{%{content}%}\\n"', assistant="'{content}'"
    )
    encoder = PromptEncoder(tiny_engine.tokenizer, cfg)
    turns = [Turn("system", "s"), Turn("user", "u")]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = jinja2.Environment().from_string(encoder.chat_template()).render(messages=messages)
    assert text == tiny_engine.tokenizer.decode(encoder.prompt_ids(turns))


def test_the_one_model_is_listed(client):
    (model,) = client.get("/v1/models").get_json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 8192)
