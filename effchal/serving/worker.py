"""gunicorn's worker: a request gets a thread only once all of it has come in.

gunicorn -k effchal.serving.worker.Worker ...
"""

import http
import os
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ
from socket import SHUT_WR, socket
from typing import Any

from gunicorn.http import errors, get_parser
from gunicorn.workers.gthread import TConn, ThreadWorker

from effchal.prompts.priority import give_way
from effchal.serving.incoming import HEAD_LIMIT_BYTES, Incoming, Refused
from effchal.serving.metrics import UNREAD, Metrics
from effchal.serving.refusals import error_answer

HEAD_S = 10.0  # for the headers, from the first byte or the connection on
BODY_S = 60.0  # for the body after them
WRITE_S = 60.0  # for a client to take an answer, or one event of a stream
LINGER_S = 5.0  # for a client that is refused to notice it
RECEIVED_AT_ONCE = 64 << 10  # bytes
RECEIVED_LIMIT_BYTES = 512 << 20  # of all requests that come in or wait for a thread
HEALTH_PATHS = (b"/health", b"/ready")
HEALTH_THREADS = 2
DESCRIPTORS = 65536  # as many as allowed, up to here
OTHER_DESCRIPTORS = 256  # those that are no client's connection
# A thread that computes in Python lets the engine's thread in after this. By default it is
# 5 ms, and the engine waits for it many times a step.
SWITCH_S = 0.0005
# Of an integer in a body; the least that Python allows. Reading one takes time with the square of
# its length, in which no other thread runs.
LONGEST_INTEGER = 640
REQUEST_NICE = 5  # of threads that read and answer requests; see give_way
STATUS_OF = {
    errors.LimitRequestHeaders: 431,
    errors.LimitRequestLine: 414,
    errors.UnsupportedTransferCoding: 501,
    errors.ForbiddenProxyRequest: 403,
    errors.ExpectationFailed: 417,
}


class Worker(ThreadWorker):
    """gunicorn's threads, behind a loop that waits for slow clients in their place."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """gunicorn's hook, in the master before it opens anything."""
        super().check_config(cfg, log)
        cfg.set("control_socket_disable", True)  # one way in is enough

    def init_process(self) -> None:
        self.cfg.set("forwarder_headers", "")  # SCRIPT_NAME from any client would be our fault
        sys.setswitchinterval(SWITCH_S)
        sys.set_int_max_str_digits(LONGEST_INTEGER)
        # A very long text is encoded by a thread that gives way, not by the tokenizer's own.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        # A connection without a descriptor for it would end gunicorn's loop.
        most = raise_descriptor_limit() - OTHER_DESCRIPTORS
        self.worker_connections = max(1, min(self.cfg.worker_connections, most))
        self._health_pool = ThreadPoolExecutor(HEALTH_THREADS, "health")
        self._deadlines: dict[TConn, float] = {}  # of the requests that are coming in
        self._received = 0  # bytes of all requests in hand
        super().init_process()  # returns when the worker ends

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """gunicorn's hook. Requests give way to the engine's thread, which all clients wait for."""
        return ThreadPoolExecutor(self.cfg.threads, "request", give_way, (REQUEST_NICE,))

    # Reading: in the main thread, which never blocks

    def enqueue_req(self, conn: TConn) -> None:
        """gunicorn's hook for a connection that has, or is about to send, a request."""
        if self.cfg.is_ssl:  # its records cannot be told apart here
            super().enqueue_req(conn)
            return
        conn.sock.setblocking(False)
        conn.incoming, conn.refused, conn.received = Incoming(), False, 0
        self._deadlines[conn] = time.monotonic() + HEAD_S
        self.poller.register(conn.sock, EVENT_READ, partial(self._receive, conn))
        if rest := getattr(conn, "rest", b""):
            self._add(conn, rest)

    def _receive(self, conn: TConn, sock: socket) -> None:
        try:
            data = sock.recv(RECEIVED_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(conn)
        elif not conn.refused:
            self._add(conn, data)

    def _add(self, conn: TConn, data: bytes) -> None:
        had_head = conn.incoming.has_head
        conn.received += len(data)
        self._received += len(data)
        try:
            whole = conn.incoming.add(data)
            # A small request is taken nonetheless: large ones must not keep /health away.
            if self._received > RECEIVED_LIMIT_BYTES and conn.received > HEAD_LIMIT_BYTES:
                raise Refused(503, "too many large requests at once; try again")
        except Refused as error:
            self._refuse(conn, error)
            return
        if whole:
            self._stop_reading(conn)
            self._submit(conn)
        elif conn.incoming.has_head and not had_head:
            self._deadlines[conn] = time.monotonic() + BODY_S
            if conn.incoming.expects_continue:
                with suppress(OSError):
                    conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def murder_pending(self) -> None:
        """gunicorn's hook, about once a second: end what takes too long to come in."""
        super().murder_pending()
        now = time.monotonic() if self.alive else float("inf")  # no time is left at the end
        for conn in [each for each, deadline in self._deadlines.items() if deadline < now]:
            if conn.refused or not len(conn.incoming):
                self._close(conn)
            elif not self.alive:
                self._refuse(conn, Refused(503, "the server is stopping"))
            else:
                seconds = BODY_S if conn.incoming.has_head else HEAD_S
                self._refuse(conn, Refused(408, f"not all of it came within {seconds:.0f} s"))

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """gunicorn's hook: it waits longer at its end, and would forget the deadlines."""
        super().wait_for_and_dispatch_events(min(timeout, 1.0))

    def _refuse(self, conn: TConn, error: Refused) -> None:
        self.log.info("refused %s: %d, %s", conn.client, error.status, error.message)
        self._count(error.status)
        with suppress(OSError):
            conn.sock.send(error_bytes(error.status, error.message))
            conn.sock.shutdown(SHUT_WR)
        # Closed at once, with bytes unread, the connection would take the answer with it.
        self._forget(conn)
        conn.refused = True
        self._deadlines[conn] = time.monotonic() + LINGER_S

    def _stop_reading(self, conn: TConn) -> None:
        del self._deadlines[conn]
        self.poller.unregister(conn.sock)

    def _forget(self, conn: TConn) -> None:
        self._received -= conn.received
        conn.incoming, conn.received = Incoming(), 0

    def _close(self, conn: TConn) -> None:
        self._stop_reading(conn)
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()

    # Answering: in threads

    def _submit(self, conn: TConn) -> None:
        pool = self._health_pool if conn.incoming.path in HEALTH_PATHS else self.tpool
        future = pool.submit(self.handle, conn)
        done = partial(self.method_queue.defer, self.finish_request, conn)
        future.add_done_callback(done)

    def handle(self, conn: TConn) -> bool:
        """Answer the request of a connection; whether another one may follow."""
        if self.cfg.is_ssl:
            return super().handle(conn)
        request = None
        try:
            conn.sock.settimeout(WRITE_S)
            data, conn.rest = conn.incoming.split()
            request = next(get_parser(self.cfg, pieces(data), conn.client))
            return self.handle_request(request, conn)
        except (OSError, StopIteration) as error:  # the client has gone, or does not read
            self.log.debug("connection to %s ends: %r", conn.client, error)
        except Exception as error:
            self.handle_error(request, conn.sock, conn.client, error)
        return False

    def finish_request(self, conn: TConn, future: "Future[Any]") -> None:
        """gunicorn's hook, in the main thread."""
        if not self.cfg.is_ssl:
            self._forget(conn)
            goes_on = not future.cancelled() and future.exception() is None and future.result()
            if goes_on and self.alive and conn.rest:  # the client did not wait for its answer
                self.enqueue_req(conn)
                return
        super().finish_request(conn, future)

    def handle_error(self, req: Any, client: socket, addr: Any, exc: Exception) -> None:
        """gunicorn's hook: an answer in JSON to what its parser refuses."""
        status = STATUS_OF.get(type(exc), 400 if isinstance(exc, errors.ParseException) else 500)
        if status == 500:
            self.log.error("Error handling request", exc_info=exc)
        else:
            self.log.warning("Invalid request from %s: %s", addr, exc)
        message = str(exc) if status < 500 else f"internal error: {type(exc).__name__}"
        self._count(status)
        with suppress(OSError):
            client.sendall(error_bytes(status, message))

    def _count(self, status: int) -> None:
        metrics: Metrics = self.wsgi.extensions["metrics"]
        metrics.requests.labels(UNREAD, str(status)).inc()


def raise_descriptor_limit() -> int:
    """How many files and connections this process may have open from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        return allowed
    return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def pieces(data: bytes) -> Iterator[bytes]:
    """As small as from a socket: gunicorn copies the rest of a piece at every read."""
    return (data[start : start + 8192] for start in range(0, len(data), 8192))


def error_bytes(status: int, message: str) -> bytes:
    """A whole HTTP answer, after which the connection closes."""
    body, headers = error_answer(status, message)
    data = body.model_dump_json().encode()
    head = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*head, "", ""]).encode() + data
