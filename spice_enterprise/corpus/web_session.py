"""One web session for the libraries that read wikis: it talks to known hosts only, and reads no more than allowed.

In: the hosts, and the most bytes of one answer.
Out: a `requests.Session` that those libraries take in place of their own; their errors as `SourceError`.
Refuses: other hosts, also by redirect (`E_URL_DENIED`); longer answers (`AnswerTooLongError`).
Not here: what is asked (`wiki.py`).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from spice_enterprise.corpus.urls import away, no_access, optional
from spice_enterprise.errors import SourceError

TIMEOUT_S: Final = 60
_NO_ACCESS: Final = (401, 403)
_NOT_FOUND: Final = (404, 410)


class AnswerTooLongError(Exception):
    """An answer is longer than one file may be."""


class GoneError(Exception):
    """What was asked for is not there."""


class _Capped:
    """The body of an answer, up to a number of bytes."""

    def __init__(self, body: Any, most: int) -> None:
        self._body = body
        self._most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def stream(self, amount: int, **options: Any) -> Iterator[bytes]:
        """Yield the body piece by piece; compressed answers count by what they expand to."""
        seen = 0
        for piece in self._body.stream(amount, **options):
            seen += len(piece)
            if seen > self._most:
                self._body.close()
                raise AnswerTooLongError
            yield piece


def guarded_session(hosts: tuple[str, ...], most: int) -> Any:
    """Return a session that reaches `hosts` and reads at most `most` bytes of an answer."""
    requests = optional("requests", "wiki")
    for name in ("atlassian", "office365"):
        # at debug level these write whole pages into the log
        logging.getLogger(name).setLevel(logging.WARNING)

    class Guarded(requests.Session):  # type: ignore[misc, name-defined]
        def send(self, request: Any, **options: Any) -> Any:
            parts = urlsplit(str(request.url))
            if parts.hostname not in hosts or not _is_reading(str(request.method), parts.path):
                raise SourceError("the wiki leads to another host", code="E_URL_DENIED", hint="name the wiki's final address")
            response = super().send(request, **(options | {"stream": True}))
            if not isinstance(response.raw, _Capped):
                response.raw = _Capped(response.raw, most)
            return response

    return Guarded()


def _is_reading(method: str, path: str) -> bool:
    """True for requests that change nothing; SharePoint's library asks by POST for the digest that writing would need."""
    return method in ("GET", "HEAD") or (method == "POST" and path.lower().endswith("/_api/contextinfo"))


@contextmanager
def machinery() -> Iterator[None]:
    """Turn what the libraries raise into `SourceError`, without the server's words; `GoneError` for what is not there."""
    try:
        yield
    except (SourceError, AnswerTooLongError, ImportError):
        raise
    except Exception as error:  # noqa: BLE001 - each library has its own errors, with names and addresses in their text
        status = _status(error)
        if status in _NO_ACCESS:
            raise no_access(f"status {status}") from None
        if status in _NOT_FOUND:
            raise GoneError from None
        raise away(type(error).__name__) from None


def _status(error: Exception) -> int | None:
    """Return the status of the answer that an error, or the reason it carries, is about."""
    for holder in (error, getattr(error, "reason", None)):
        status = getattr(getattr(holder, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None
