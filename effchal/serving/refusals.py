"""Why a request gets no answer, and the one form in which it is told."""

from effchal.serving.helm_types import Error, ErrorResponse

RETRY_AFTER_S = 10
LONGEST_MESSAGE = 1000  # characters; a message may repeat what the client sent


class RequestError(Exception):
    """A request that is refused: HTTP status, message, and the field to change."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field


class ClientGone(Exception):
    """The client closed its connection; nobody will read the answer."""


def error_answer(
    status: int, message: str, field: str | None = None
) -> tuple[ErrorResponse, dict[str, str]]:
    """Body and headers of an answer that refuses a request. Only our own faults are 500."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = Error(message=message[:LONGEST_MESSAGE], field=field, type=kind)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return ErrorResponse(error=error), headers
