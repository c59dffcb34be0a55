"""Health, metrics and errors, and the rules that no client can see."""

import json
import re
from typing import Any

from effchal.conformance_checks.client import Exchange, Server
from effchal.conformance_checks.helm_requests import PROMPT, helm_body, process
from effchal.conformance_checks.process_answers import process_answer_keys, process_helm_keys
from effchal.conformance_checks.tokenizer import tokenize_answers
from effchal.conformance_checks.verdict import CannotTell, Check, require

TOO_LONG = "word " * 400_000
SAMPLE = re.compile(r"^(\w[\w:]*)(?:\{.*\})? (\S+)(?: \d+)?$")
WRONG: list[tuple[str, Any]] = [
    ("/process", {}),
    ("/process", {"prompt": 5}),
    ("/process", {"prompt": PROMPT, "temperature": "hot"}),
    ("/process", {"prompt": PROMPT, "max_new_tokens": -1}),
    ("/process", {"prompt": PROMPT, "stop_sequences": 3}),
    ("/process", b"this is no JSON"),
    ("/process", [PROMPT]),
    ("/tokenize", {"text": 5}),
]
# Wrong as well; how it is refused is left open.
ODD: list[tuple[str, Any]] = [
    ("/process", b""),
    ("/process", b"null"),
    ("/process", {"prompt": "half a character: \ud800"}),
    ("/process", {"prompt": PROMPT, "temperature": -1}),
    ("/process", {"prompt": PROMPT, "temperature": float("nan")}),
    ("/process", {"prompt": PROMPT, "max_new_tokens": 10**30}),
    ("/process", {"prompt": PROMPT, "top_p": {}}),
    ("/process", {"prompt": PROMPT, "top_k_per_token": 10**9}),
    ("/process", {"prompt": PROMPT, "stop_sequences": [""], "max_new_tokens": 2}),
    ("/process", b"[" * 50_000),
    ("/tokenize", {}),
    ("/tokenize", {"text": PROMPT, "truncation": True, "max_length": -1}),
    ("/decode", {}),
    ("/decode", {"tokens": "abc"}),
    ("/decode", {"tokens": [-1]}),
    ("/decode", {"tokens": [10**9]}),
]


def health(server: Server) -> None:
    """GET /health answers 200 while the process lives."""
    found = server.get("/health")
    require(found.status == 200, found.summary())


def ready(server: Server) -> None:
    """GET /ready answers 200 once the model answers."""
    process(server, max_new_tokens=1)
    found = server.get("/ready")
    require(found.status == 200, f"the model answers, and /ready {found.summary()}")


def metrics(server: Server) -> None:
    """GET /metrics is Prometheus text, with a counter of requests and a histogram."""
    before = metric_values(server.get("/metrics"))
    process(server, max_new_tokens=2)
    exchange = server.get("/metrics")
    after = metric_values(exchange)
    counts = [name for name in after if "request" in name and name.endswith(("_total", "_count"))]
    grew = any(after[name] > before.get(name, 0) for name in counts)
    require(grew, f"no counter of requests grew with one more: {counts}")
    types = re.findall(r"^# TYPE (\S+) histogram$", exchange.received, re.MULTILINE)
    require(bool(types), "there is no histogram")


def metric_values(exchange: Exchange) -> dict[str, float]:
    """The sum of each metric over its labels. Raises Broken where a line cannot be read."""
    require(exchange.status == 200, exchange.summary())
    values: dict[str, float] = {}
    for line in exchange.received.splitlines():
        if not line or line.startswith("#"):
            continue
        found = SAMPLE.match(line)
        require(found is not None, f"a line is no sample of Prometheus: {line!r:.100}")
        if found is not None:
            values[found[1]] = values.get(found[1], 0.0) + float(found[2])
    require(bool(values), "it has no sample")
    return values


def error_status_400(server: Server) -> None:
    """A request that is wrong is answered with 400."""
    for path, body in WRONG:
        exchange = server.post(path, body)
        if exchange.status is None or exchange.status < 500:  # never_500 sees the others
            require(exchange.status == 400, f"{path} {shown(body)} {exchange.summary()}")


def error_form(server: Server) -> None:
    """An error is JSON: {"error": {"message", "field"}}."""
    for path, body in WRONG[:5]:
        exchange = server.post(path, body)
        if exchange.status is not None and exchange.status >= 400:
            answer = exchange.json()
            error: Any = answer.get("error") if isinstance(answer, dict) else None
            ok = isinstance(error, dict) and isinstance(error.get("message"), str)
            require(ok and "field" in error, f"{path} {shown(body)} {exchange.summary()}")


def error_status_413(server: Server) -> None:
    """A prompt that is too long for any model is answered with 413."""
    exchange = server.post("/process", helm_body(TOO_LONG, max_new_tokens=1))
    require(exchange.status == 413, f"a prompt of {len(TOO_LONG)} characters {exchange.summary()}")


def never_500(server: Server) -> None:
    """No bad input is answered with 500, and the server lives on."""
    for path, body in [*WRONG, *ODD]:
        exchange = server.post(path, body)
        how = f"{path} {shown(body)} {exchange.summary()}"
        require(exchange.status is not None and exchange.status != 500, how)
    process(server, max_new_tokens=1)


def shown(body: Any) -> str:
    text = body.decode() if isinstance(body, bytes) else json.dumps(body)
    return text if len(text) <= 80 else f"{text[:80]}..."


def ready_while_loading(server: Server) -> None:
    """GET /ready answers 503 before the model answers."""
    raise CannotTell("the model answers already")


def ready_within_20_minutes(server: Server) -> None:
    """The server is ready within 20 minutes of its start."""
    raise CannotTell("no request shows when the server was started")


def container_port_80(server: Server) -> None:
    """In the container the server listens on port 80."""
    raise CannotTell("no request shows which port it is inside of a container")


def evaluation_within_2_hours(server: Server) -> None:
    """The whole evaluation ends within 2 hours."""
    raise CannotTell("only the evaluation itself shows it")


def sigterm(server: Server) -> None:
    """A SIGTERM finishes what runs, refuses what comes, and exits with 0."""
    raise CannotTell("a client can send no signal")


CHECKS = [
    Check(health),
    Check(ready, (process_answer_keys,)),
    Check(metrics, (process_answer_keys,)),
    Check(error_status_400, (process_helm_keys, tokenize_answers)),
    Check(error_form, (process_helm_keys,)),
    Check(error_status_413, (process_helm_keys,)),
    Check(never_500, (process_answer_keys,)),
]
OUTSIDE = [
    Check(ready_while_loading),
    Check(ready_within_20_minutes),
    Check(container_port_80),
    Check(evaluation_within_2_hours),
    Check(sigterm),
]
