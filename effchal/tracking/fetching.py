"""How far a download is: what the hub's own bars and an HTTP answer tell of it."""

import http.client
import io
from typing import Any

from effchal.tracking.terminal import Advance, progress

BLOCK = 1 << 18  # bytes


def hub_bar(advance: Advance) -> type:
    """The `tqdm_class` by which a function of huggingface_hub tells its bytes to `advance`."""
    from huggingface_hub.utils import tqdm

    class CountedDownload(tqdm):
        """A bar that draws nowhere, and counts by itself: switched off, the hub's does not."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"file": io.StringIO()})
            self._done, self._most = options.get("initial") or 0, options.get("total")

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)
            self._done += n or 0
            advance(self._done, self._most)
            return drawn

    return CountedDownload


def read_response(response: http.client.HTTPResponse, what: str) -> bytes:
    """The whole body of an answer.

    Raises:
        http.client.IncompleteRead: it is shorter than the server announced.
    """
    length = response.headers.get("Content-Length")
    total = int(length) if length else None
    content = bytearray()
    with progress(what, total, "B") as advance:
        while block := response.read(BLOCK):
            content += block
            advance(len(content))
    if total is not None and len(content) < total:
        raise http.client.IncompleteRead(bytes(content), total - len(content))
    return bytes(content)
