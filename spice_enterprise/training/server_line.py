"""The client's end of the line to a sampler server: requests, replies, and how long the server has been silent.

In: a loopback URL, a token, requests as bytes.
Out: replies as bytes, or the `Failure` the server sent.
Refuses: a URL that is not loopback; a server that is away (E_SAMPLER_AWAY) or silent (E_SAMPLER_HUNG) for `timeout_s`, that
    does not know the token (E_SAMPLER_TOKEN) or does not speak as a sampler server does (E_SAMPLER).
Not here: what is asked (`server_sampler.py`).
"""

import http.client
import selectors
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from spice_enterprise.errors import ConfigError, IntegrityError, SamplerError
from spice_enterprise.offline import is_local
from spice_enterprise.training.wire import MAX_REPLY_BYTES, Failure, read_record

RETRY_PAUSE_S: Final = 0.25
"""Between two attempts to reach a server that is away."""


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
    """The connection ended before the reply. Asking again is safe: the same request has the same answer."""


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
        """Return the reply. Keeps trying to reach a server that is away. Raises `SamplerError`."""
        self.listen()
        while True:
            try:
                exchange = self.send(method, path, body)
                try:
                    self._wait_for(exchange)
                    return self.receive(exchange)
                finally:
                    exchange.close()
            except LostError:
                if not self.patience_s:
                    raise self.away() from None
                time.sleep(RETRY_PAUSE_S)

    def send(self, method: str, path: str, body: Sequence[bytes] = ()) -> Exchange:
        """Send a request. Raises `LostError`, or `SamplerError` when the server does not take it."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.putrequest(method, path)
            connection.putheader("Authorization", f"Bearer {self._token}")
            if method == "POST":
                connection.putheader("Content-Length", str(sum(map(len, body))))
            connection.endheaders()
            for part in body:
                connection.send(part)
        except TimeoutError:
            connection.close()
            raise self.hung() from None
        except OSError:
            connection.close()
            raise LostError from None
        return Exchange(connection)

    def receive(self, exchange: Exchange) -> bytes | Failure:
        """Read the reply, which has begun to come. Raises `LostError`, or `SamplerError` when it is none."""
        try:
            with exchange.connection.getresponse() as response:
                if response.length is None or response.length > MAX_REPLY_BYTES:
                    raise _not_a_server("a reply without an end")
                body = response.read()
        except TimeoutError:
            raise self.hung() from None
        except (OSError, http.client.IncompleteRead):
            raise LostError from None
        except http.client.HTTPException as error:
            raise _not_a_server(type(error).__name__) from None
        return body if response.status == HTTPStatus.OK else self._failure(body)

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
            raise SamplerError(
                "the sampler server does not know this token",
                code="E_SAMPLER_TOKEN",
                hint="let job and server use one token file: sampler.token_file, --token-file",
            )
        return failure


def _not_a_server(what: str) -> SamplerError:
    return SamplerError(f"what answers at sampler.url is not a sampler server: {what}", hint="check sampler.url")
