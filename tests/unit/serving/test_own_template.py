"""A bundle of a model with a chat template of its own: same prompts, and answers that end."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import transformers
from support.http_client import post
from support.scripted import scripted

from effchal.bundle import write_bundle
from effchal.config import Config, ModelConfig, PromptConfig, ServeConfig, load_config
from effchal.config.choices import Dtype, Template
from effchal.decoding.sampling import SamplingParams
from effchal.model.tiny import tiny_folder
from effchal.model.tokenizer import load_tokenizer
from effchal.model_source import check_model_source, inference_config, load_engine
from effchal.prompts.encoder import PromptEncoder, Turn
from effchal.serving.app import make_app
from effchal.serving.service import Service

# Its turns end in <pad>, which is not the end-of-sequence token.
TEMPLATE = """{% for m in messages %}
{% if m.role == 'system' %}{{ raise_exception('No system turns') }}{% endif %}
{{ m.role + ': ' + m.content + '<pad>' }}{% endfor %}
{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""


@pytest.fixture
def cfg(tmp_path):
    """Of a bundle that was written with prompt=auto."""
    base = shutil.copytree(tiny_folder(), tmp_path / "base")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    model = ModelConfig(name=str(base), dtype=Dtype.float32)
    prompt = PromptConfig(template=Template.auto, user="own {content}")
    written = Config(model=model, prompt=prompt, lora=None, serve=ServeConfig(max_rows=2))
    write_bundle(tmp_path / "bundle", written, None, load_tokenizer(model))
    bundled = replace(written, bundle=str(tmp_path / "bundle"))
    return inference_config(bundled, [], {"serve"})


def test_a_bundle_carries_the_template_that_was_chosen_and_what_ends_an_answer(cfg, tmp_path):
    assert load_config(tmp_path / "bundle" / "config.yaml").prompt == cfg.prompt
    assert cfg.prompt == PromptConfig(template=Template.tokenizer)
    engine = load_engine(check_model_source(cfg))
    tokenizer = engine.tokenizer
    assert engine.ends == {tokenizer.eos_token_id, tokenizer.pad_token_id}
    told = transformers.GenerationConfig.from_pretrained(tmp_path / "bundle")
    assert set(told.eos_token_id) == engine.ends
    answer = scripted(engine, "yes<pad>no").complete([5], SamplingParams(max_new_tokens=9))
    assert (answer.text, answer.finish_reason) == ("yes", "stop")


def test_the_server_spells_prompts_by_it_and_refuses_what_it_refuses(cfg):
    engine = load_engine(check_model_source(cfg))
    service = Service(cfg, "own")
    service.set_ready(engine)
    client = make_app(service).test_client()
    try:
        ids = engine.tokenizer.apply_chat_template(
            [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_dict=False
        )
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        answer = post(client, "/v1/chat/completions", chat)
        assert answer["usage"]["prompt_tokens"] == len(ids)
        assert service.prompt_ids([Turn("user", "hi")]) == ids
        chat["messages"].insert(0, {"role": "system", "content": "be kind"})
        error = post(client, "/v1/chat/completions", chat, status=400)["error"]
        assert error["field"] == "messages"
        assert "No system turns" in error["message"]
        assert "prompt=" not in error["message"]
        info = client.get("/tokenizer_info").get_json()
        assert info["chat_template"] == TEMPLATE
    finally:
        service.loaded().scheduler.stop()


@pytest.mark.parametrize("user", ["Q: {content}\nA:", 'é 🙂 "{content}"\n'])
def test_a_bundles_tokenizer_spells_our_own_templates_too(tmp_path, user):
    model = ModelConfig(name="builtin:tiny", dtype=Dtype.float32)
    cfg = Config(model=model, prompt=PromptConfig(user=user, after_answer="\n"), lora=None)
    tokenizer = load_tokenizer(model)
    write_bundle(tmp_path / "bundle", cfg, None, tokenizer)
    assert tokenizer.chat_template is None  # the run's own stays as it was
    saved = load_tokenizer(replace(model, name=str(tmp_path / "bundle" / "tokenizer")))
    turns = [Turn("system", "s"), Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    ids = saved.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == PromptEncoder(tokenizer, cfg.prompt).prompt_ids(turns)


@pytest.mark.integration
def test_the_template_works_where_torch_is_hidden(tmp_path):
    base = shutil.copytree(tiny_folder(), tmp_path / "base")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    code = f"""
from effchal.model.tokenizer import hide_torch, load_tokenizer
hide_torch()
from effchal.config import ModelConfig, PromptConfig
from effchal.config.choices import Template
from effchal.prompts.encoder import PromptEncoder, Turn
tokenizer = load_tokenizer(ModelConfig(name={str(base)!r}))
encoder = PromptEncoder(tokenizer, PromptConfig(template=Template.auto))
print(tokenizer.decode(encoder.prompt_ids([Turn("user", "hi")])))
"""
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, text=True) == "user: hi<pad>assistant: \n"
