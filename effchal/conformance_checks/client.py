"""Requests to the server that is checked. What was sent and what came back is kept."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")  # asked without a proxy
KEPT_CHARACTERS = 8000  # of a body, in the file of all exchanges
CONNECTIONS = 256


@dataclass
class Exchange:
    """One request, and its answer or why there is none."""

    method: str
    path: str
    sent: str = ""
    status: int | None = None  # None: no answer
    headers: dict[str, str] = field(default_factory=dict)  # with names in small letters
    received: str = ""
    seconds: float = 0.0
    error: str = ""

    def json(self) -> Any:
        """What the answer says; None where it is no JSON. NaN and Infinity come as such."""
        try:
            return json.loads(self.received)
        except (ValueError, RecursionError):
            return None

    def summary(self) -> str:
        """What came back, in a few words."""
        return f"got {self.status}: {short(self.received, 200)}" if self.status else self.error

    def to_dict(self) -> dict[str, Any]:
        kept = dict(vars(self), seconds=round(self.seconds, 4))
        return kept | {key: short(kept[key], KEPT_CHARACTERS) for key in ("sent", "received")}


class Server:
    """The server at an address."""

    def __init__(self, url: str, timeout_s: float, token: str = "") -> None:
        self.url = url.rstrip("/")
        headers = httpx.Headers({"Authorization": f"Bearer {token}"} if token else {}, "utf-8")
        self._http = httpx.Client(
            headers=headers,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=CONNECTIONS),
            trust_env=httpx.URL(url).host not in LOOPBACK,
        )
        self._kept: list[Exchange] = []
        self._keeping = threading.Lock()

    def get(self, path: str) -> Exchange:
        return self._exchange("GET", path)

    def post(self, path: str, body: Any) -> Exchange:
        """Send JSON, spelled in ASCII, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode("ascii")
        return self._exchange("POST", path, content)

    def take(self) -> list[Exchange]:
        """The exchanges since the last call, in the order of their ends."""
        with self._keeping:
            taken, self._kept = self._kept, []
        return taken

    def close(self) -> None:
        self._http.close()

    def _exchange(self, method: str, path: str, content: bytes | None = None) -> Exchange:
        exchange = Exchange(method, path, (content or b"").decode("utf-8", "replace"))
        headers = {} if content is None else {"Content-Type": "application/json"}
        start = time.perf_counter()
        with _errors_in(exchange):
            answer = self._http.request(method, self.url + path, content=content, headers=headers)
            exchange.status = answer.status_code
            exchange.headers = {key.lower(): text for key, text in answer.headers.items()}
            exchange.received = answer.content.decode("utf-8", "replace")
        exchange.seconds = time.perf_counter() - start
        with self._keeping:
            self._kept.append(exchange)
        return exchange


@contextlib.contextmanager
def _errors_in(exchange: Exchange) -> Iterator[None]:
    """Keep why there is no answer."""
    try:
        yield
    except httpx.TimeoutException as error:
        exchange.error = f"no answer in time ({type(error).__name__})"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        exchange.error = f"no answer: {error or type(error).__name__}"


def short(text: str, most: int) -> str:
    """A text of bounded length: its beginning, and how long it is."""
    return text if len(text) <= most else f"{text[:most]} ... ({len(text)} characters)"
