"""HTTP on loopback for whoever knows the token: a few routes, a thread and one request per connection.

In: routes; on each connection a greeting, then one request with a proof (`server_token.py`) and, for POST, a length.
Out: the server's own proof; the record that a route's future brings, as JSON; a `Failure` when it brings an error.
Refuses: a request without a proof (401), another path or method (404), malformed (400), without a length (411), too
    large (413), before there are routes (503); more than `MAX_CONNECTIONS` at a time; to listen on anything but loopback.
Not here: what the routes do (`sampler_server.py`).

The standard library is enough: every request waits for the one thread that samples, so a thread per request is all
there is to it, and a sampler's environment gets no further packages. Nothing of a request is ever written to a log.
"""

import selectors
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, cast

from spice_enterprise.errors import DeliveryError, IntegrityError, SamplerError, SpiceError
from spice_enterprise.training.server_token import is_nonce, is_proof, new_nonce, proof
from spice_enterprise.training.wire import HELLO, NONCE_HEADER, Failure, Hello, Kind, RefusedError, write_record

HOST: Final = "127.0.0.1"
MAX_CONNECTIONS: Final = 256
SOCKET_TIMEOUT_S: Final = 30.0
"""Longest pause in the middle of a request."""
LOOK_S: Final = 0.5
"""How often a waiting request looks whether its client is still there."""
DRAIN_S: Final = 5.0
"""Longest time for which the rest of a refused body is read and dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What answers a method and path. `begin` gets the body and may raise `SpiceError`, as its future may."""

    begin: Callable[[bytes], "Future[Any]"]
    max_bytes: int = 0


class LoopbackListener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Takes a port when it is made; answers while `serve_forever` runs in some thread.

    Until it is given `routes` it says that it is loading.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, *, token: str) -> None:
        """Take `port`, 0 for any free one; whoever calls waits until it serves. Raises `SamplerError` (E_PORT_TAKEN)."""
        self.token = token
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.routes: Mapping[tuple[str, str], Route] | None = None
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError):
            raise SamplerError(
                f"port {port} of {HOST} cannot be taken",
                code="E_PORT_TAKEN",
                hint="end what listens there, or choose another port",
            ) from None

    @property
    def port(self) -> int:
        """Which one it took."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; hang up when there are too many."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what kind of thing went wrong. A traceback could quote a prompt."""
        kind = sys.exc_info()[0]
        if kind is not None and not issubclass(kind, OSError):
            sys.stderr.write(f"E_INTERNAL: unexpected {kind.__name__} while answering a request\n")


class _ClientGoneError(Exception):
    """There is no answer, or nobody waits for it any more: hang up."""


class _Handler(BaseHTTPRequestHandler):
    """A greeting and one request on one connection."""

    protocol_version = "HTTP/1.1"
    timeout = SOCKET_TIMEOUT_S
    disable_nagle_algorithm = True
    server_version = "spice"
    sys_version = ""

    def setup(self) -> None:
        """Begin with nobody greeted."""
        super().setup()
        host, port = self.connection.getsockname()[:2]
        self._listener = cast("LoopbackListener", self.server)
        self._address = f"{host}:{port}"
        self._greeting: tuple[str, ...] = ()
        """Address and nonces of this connection, once they were exchanged."""

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    def do_POST(self) -> None:
        """Answer."""
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Write nothing: a request line is nobody's business."""

    def _answer(self) -> None:
        is_first, self.close_connection = not self._greeting, True
        with suppress(_ClientGoneError, OSError):
            status, body = self._greet() if is_first and self.path == HELLO else self._result()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "keep-alive" if is_first and self._greeting else "close")
            self.end_headers()
            self.wfile.write(body)
            if status is not HTTPStatus.OK:
                self._drain()

    def _greet(self) -> tuple[HTTPStatus, bytes]:
        theirs, ours = self.headers.get(NONCE_HEADER, ""), new_nonce()
        if self.command != "GET" or not is_nonce(theirs):
            return _refusal(HTTPStatus.BAD_REQUEST, "no greeting")
        self._greeting = (self._address, theirs, ours)
        return HTTPStatus.OK, write_record(Hello(nonce=ours, proof=proof(self._listener.token, "server", *self._greeting)))

    def _is_authorised(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Spice ")
        about = ("client", *self._greeting, self.command, self.path)
        return bool(self._greeting) and is_proof(given, self._listener.token, *about)

    def _result(self) -> tuple[HTTPStatus, bytes]:
        if not self._is_authorised():
            return _refusal(HTTPStatus.UNAUTHORIZED, "the token is missing or another one", code="E_SAMPLER_TOKEN")
        if self._listener.routes is None:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the sampler is being loaded", kind="loading")
        route = self._listener.routes.get((self.command, self.path))
        if route is None:
            return _refusal(HTTPStatus.NOT_FOUND, "no such method or path")
        try:
            length = self._length()
            if length > route.max_bytes:
                return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {route.max_bytes} bytes")
            return HTTPStatus.OK, write_record(self._wait(route.begin(self._read(length))))
        except _LengthError:
            return _refusal(HTTPStatus.LENGTH_REQUIRED, "the body has no length")
        except SpiceError as error:
            return _failure_of(error)

    def _length(self) -> int:
        text = self.headers.get("Content-Length", "0" if self.command == "GET" else "")
        if not (text.isascii() and text.isdecimal() and len(text) < 16) or self.headers.get("Transfer-Encoding"):
            raise _LengthError
        return int(text)

    def _read(self, length: int) -> bytes:
        body = self.rfile.read(length)
        if len(body) < length:
            raise _ClientGoneError
        return body

    def _drain(self) -> None:
        """Read what is still being sent: to close over unread bytes would reset the connection and destroy the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(DRAIN_S)
        end_s = time.monotonic() + DRAIN_S
        while time.monotonic() < end_s and self.rfile.read1(1 << 16):
            pass

    def _wait(self, future: "Future[Any]") -> object:
        """Return what `future` brings; when the client goes away first, tell the engine through it."""
        while not future.done():
            wait([future], timeout=LOOK_S)
            if not future.done() and self._is_client_gone():
                future.cancel()
                raise _ClientGoneError
        if future.cancelled():
            raise _ClientGoneError
        return future.result()

    def _is_client_gone(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            # a client that waits sends nothing, so what can be read is the end
            return bool(selector.select(0))


class _LengthError(Exception):
    """A body of unknown length."""


def _refusal(status: HTTPStatus, message: str, *, code: str = "E_SAMPLER", kind: Kind = "sampler") -> tuple[HTTPStatus, bytes]:
    return status, write_record(Failure(kind=kind, code=code, message=message))


def _failure_of(error: SpiceError) -> tuple[HTTPStatus, bytes]:
    """Return the answer that stands for `error`; messages of this package never quote a document."""
    status, kind = HTTPStatus.UNPROCESSABLE_ENTITY, "sampler"
    if isinstance(error, RefusedError):
        status, kind = HTTPStatus.CONFLICT, error.kind
    elif error.code in ("E_RECORD", "E_RECORD_ID"):
        status = HTTPStatus.BAD_REQUEST
    elif isinstance(error, (DeliveryError, IntegrityError)):
        status, kind = HTTPStatus.CONFLICT, "delivery"
    return status, write_record(Failure(kind=cast("Any", kind), code=error.code, message=error.message, hint=error.hint))
