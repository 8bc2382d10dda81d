"""The client's end of the line to a sampler server: requests, replies, and how long the server has been silent.

In: a loopback URL, a token, requests as bytes.
Out: replies as bytes, or the `Failure` the server sent.
Refuses: a URL that is not loopback; a server that is away (E_SAMPLER_AWAY) or silent (E_SAMPLER_HUNG) for `timeout_s`, that
    does not know the token (E_SAMPLER_TOKEN) or does not speak as a sampler server does (E_SAMPLER). Nothing but a nonce is
    sent to what has not shown on this very connection that it knows the token (`server_token.py`).
Not here: what is asked (`server_sampler.py`).
"""

import http.client
import selectors
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from spice_enterprise.errors import ConfigError, IntegrityError, SamplerError
from spice_enterprise.offline import is_local
from spice_enterprise.training.server_token import is_proof, new_nonce, proof
from spice_enterprise.training.wire import HELLO, MAX_HELLO_BYTES, MAX_REPLY_BYTES, NONCE_HEADER, Failure, Hello, read_record

RETRY_PAUSE_S: Final = 0.25
"""Between two attempts to reach a server that is away or loading."""
MAX_LOADING: Final = 30
"""How many times `timeout_s` a server may say that it is loading."""
PIECE_BYTES: Final = 1 << 20
"""Sent at a time; between two pieces the server may say that it wants no more."""


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of `http://HOST:PORT`. Raises `ConfigError` unless it is loopback."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not url.startswith("http://") or not host or port is None or not is_local(host):
        raise ConfigError("sampler.url: not a port of this machine", hint="a sampler server runs on the machine of its jobs")
    return host, port


class LostError(Exception):
    """The connection ended before the reply. Asking again is safe: a request changes nothing that a second one would miss."""


@dataclass(slots=True, eq=False)
class Exchange:
    """One request on its way."""

    connection: http.client.HTTPConnection

    def fileno(self) -> int:
        """For selectors."""
        return int(self.connection.sock.fileno())

    def close(self) -> None:
        """Hang up."""
        self.connection.close()


class ServerLine:
    """Speaks to one server. The clock of its silence runs from `listen` on."""

    def __init__(self, url: str, *, token: str, timeout_s: float) -> None:
        self._host, self._port = address_of(url)
        self._token = token
        self._timeout_s = timeout_s
        self._heard_at_s = time.monotonic()

    def listen(self) -> None:
        """Begin to measure silence."""
        self._heard_at_s = time.monotonic()

    @property
    def patience_s(self) -> float:
        """Silence that is still allowed; 0 when it has lasted too long."""
        return max(0.0, self._heard_at_s + self._timeout_s - time.monotonic())

    def ask(self, method: str, path: str, body: Sequence[bytes] = ()) -> bytes | Failure:
        """Return the reply. Keeps trying to reach a server that is away or loading. Raises `SamplerError`."""
        self.listen()
        loaded_by_s = time.monotonic() + MAX_LOADING * self._timeout_s
        while True:
            try:
                answer = self._ask_once(method, path, body)
            except LostError:
                if not self.patience_s:
                    raise self.away() from None
            else:
                if not isinstance(answer, Failure) or answer.kind != "loading":
                    return answer
                if time.monotonic() > loaded_by_s:
                    raise self._still_loading()
                self.listen()
            time.sleep(RETRY_PAUSE_S)

    def _ask_once(self, method: str, path: str, body: Sequence[bytes]) -> bytes | Failure:
        exchange = self.send(method, path, body)
        try:
            self._wait_for(exchange)
            return self.receive(exchange)
        finally:
            exchange.close()

    def send(self, method: str, path: str, body: Sequence[bytes] = ()) -> Exchange:
        """Meet the server on a new connection and send it a request. Raises `LostError`, or `SamplerError` when it is none."""
        exchange = Exchange(http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s))
        connection = exchange.connection
        # by itself http.client would connect anew, to whoever is there then
        connection.auto_open = 0
        try:
            with self._named_trouble():
                connection.connect()
                authorization = self._meet(connection, method, path)
                connection.putrequest(method, path)
                connection.putheader("Authorization", authorization)
                if method == "POST":
                    connection.putheader("Content-Length", str(sum(map(len, body))))
                connection.endheaders()
                _send_body(exchange, body)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def receive(self, exchange: Exchange) -> bytes | Failure:
        """Read the reply, which has begun to come. Raises `LostError`, or `SamplerError` when it is none."""
        with self._named_trouble():
            status, body = _read_reply(exchange.connection, MAX_REPLY_BYTES)
        return body if status == HTTPStatus.OK else self._failure(body)

    def _meet(self, connection: http.client.HTTPConnection, method: str, path: str) -> str:
        """Return the authorisation of one request, once the server has proved that it knows the token."""
        host, port = connection.sock.getpeername()[:2]
        nonce = new_nonce()
        connection.putrequest("GET", HELLO)
        connection.putheader(NONCE_HEADER, nonce)
        connection.endheaders()
        status, body = _read_reply(connection, MAX_HELLO_BYTES)
        if status != HTTPStatus.OK:
            raise _not_a_server("it does not greet")
        try:
            hello = read_record(Hello, body)
        except IntegrityError:
            raise _not_a_server("it does not greet") from None
        greeting = (f"{host}:{port}", nonce, hello.nonce)
        if not is_proof(hello.proof, self._token, "server", *greeting):
            raise _stranger(f"what listens at port {self._port} does not know the token of this job")
        return f"Spice {proof(self._token, 'client', *greeting, method, path)}"

    @contextmanager
    def _named_trouble(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise self.hung() from None
        except (OSError, http.client.IncompleteRead, http.client.NotConnected):
            raise LostError from None
        except http.client.HTTPException as error:
            raise _not_a_server(type(error).__name__) from None

    def away(self) -> SamplerError:
        """Return the error for a server that cannot be reached."""
        return SamplerError(
            f"the sampler server at port {self._port} is away",
            code="E_SAMPLER_AWAY",
            hint="start `spice-enterprise serve-sampler`, then run the same command again; nothing is lost",
        )

    def hung(self) -> SamplerError:
        """Return the error for a server that is there but silent."""
        return SamplerError(
            f"the sampler server at port {self._port} said nothing for {self._timeout_s:g} s",
            code="E_SAMPLER_HUNG",
            hint="restart it, or raise sampler.timeout_s; then run the same command again: nothing is lost",
        )

    def _still_loading(self) -> SamplerError:
        return SamplerError(
            f"the sampler server at port {self._port} has been loading for {MAX_LOADING * self._timeout_s:g} s",
            code="E_SAMPLER_HUNG",
            hint="look at the server, or raise sampler.timeout_s; then run the same command again: nothing is lost",
        )

    def _wait_for(self, exchange: Exchange) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(exchange, selectors.EVENT_READ)
            if not selector.select(self.patience_s):
                raise self.hung()

    def _failure(self, body: bytes) -> Failure:
        try:
            failure = read_record(Failure, body)
        except IntegrityError:
            raise _not_a_server("a refusal it does not explain") from None
        if failure.code == "E_SAMPLER_TOKEN":
            raise _stranger("the sampler server does not take this job's token")
        return failure


def _send_body(exchange: Exchange, body: Sequence[bytes]) -> None:
    """Send `body`, or as much of it as the server takes before it answers."""
    with selectors.DefaultSelector() as selector:
        selector.register(exchange, selectors.EVENT_READ)
        for part in body:
            for start in range(0, len(part), PIECE_BYTES):
                if selector.select(0):
                    return
                exchange.connection.send(memoryview(part)[start : start + PIECE_BYTES])


def _read_reply(connection: http.client.HTTPConnection, most_bytes: int) -> tuple[int, bytes]:
    with connection.getresponse() as response:
        if response.length is None or response.length > most_bytes:
            raise _not_a_server("a reply without an end")
        return response.status, response.read()


def _stranger(what: str) -> SamplerError:
    hint = "let job and server use one token file: sampler.token_file, --token-file; or another port is meant: sampler.url"
    return SamplerError(what, code="E_SAMPLER_TOKEN", hint=hint)


def _not_a_server(what: str) -> SamplerError:
    return SamplerError(f"what answers at sampler.url is not a sampler server: {what}", hint="check sampler.url")
