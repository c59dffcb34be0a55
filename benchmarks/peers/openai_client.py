"""The openai client against our server: completions, chat, streams, log-probabilities.

It raises at the first unexpected answer.

Runs in an environment of its own (pip install openai):
    <its python> benchmarks/peers/openai_client.py http://127.0.0.1:8080
"""

import sys

from openai import BadRequestError, OpenAI

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
model = client.models.list().data[0].id

whole = client.completions.create(
    model=model, prompt="The capital of France is", max_tokens=12, temperature=0, logprobs=2
)
text = whole.choices[0].text
assert "".join(whole.choices[0].logprobs.tokens) == text
assert len(whole.choices[0].logprobs.top_logprobs[0]) == 2
assert whole.usage.completion_tokens == 12
print("completion:", repr(text))

chunks = client.completions.create(
    model=model, prompt="The capital of France is", max_tokens=12, temperature=0, stream=True
)
chunks = [chunk.choices[0].text for chunk in chunks if chunk.choices]
assert "".join(chunks) == text
assert len(chunks) > 6
print("streamed completion:", len(chunks), "chunks")

samples = client.completions.create(
    model=model, prompt=["a", "b"], n=2, max_tokens=4, temperature=1.0, seed=1
)
assert [choice.index for choice in samples.choices] == [0, 1, 2, 3]

stop = text[len(text) // 2 :][:3]
cut = client.completions.create(
    model=model, prompt="The capital of France is", max_tokens=12, temperature=0, stop=stop
)
assert cut.choices[0].text == text[: text.index(stop)]
assert cut.choices[0].finish_reason == "stop"

messages = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour."},
]
chat = client.chat.completions.create(
    model=model, messages=messages, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3
)
said = chat.choices[0].message.content
assert "".join(token.token for token in chat.choices[0].logprobs.content) == said
assert all(len(token.top_logprobs) <= 3 for token in chat.choices[0].logprobs.content)
print("chat:", repr(said))

options = {"stream": True, "stream_options": {"include_usage": True}}
chunks = list(
    client.chat.completions.create(
        model=model, messages=messages, max_tokens=12, temperature=0, **options
    )
)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert streamed == said
assert chunks[-1].usage.total_tokens == chat.usage.total_tokens
print("streamed chat:", len(chunks), "chunks")

try:
    client.completions.create(model=model, prompt="x", max_tokens=10**9)
    raise AssertionError("a limit was not kept")
except BadRequestError as error:
    print("refused:", error.body["message"])
print("RESULT ok")
