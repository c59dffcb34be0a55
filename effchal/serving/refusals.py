"""Why a request gets no answer."""


class RequestError(Exception):
    """A request that is refused: HTTP status, message, and the field to change."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field


class ClientGone(Exception):
    """The client closed its connection; nobody will read the answer."""
