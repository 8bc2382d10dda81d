"""Which places outside this machine may be read: those that a policy names, and never with a secret in the address.

In: the corpus URL, and the prefixes that are allowed.
Out: the parts of the URL; the addresses of a web host.
Refuses: URLs outside the prefixes, passwords and keys in a URL (`E_CONFIG_SECRET`), web hosts inside the own network.
Not here: the connection guard (`offline.py`), which keeps everything else from being reached.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from spice_enterprise.errors import MissingExtraError, SourceError

Secret = Callable[[], str]
"""Fetches a password or token when it is needed: from a keyring or the environment, never from the config."""

_WITH_USER: Final = ("imap", "imaps", "confluence+https", "confluence+http", "sharepoint+https", "sharepoint+http")
"""Schemes whose URL names a user; storage accounts (`abfs://container@account`) write a container there."""
_WITH_CONTAINER: Final = ("abfs", "abfss", "az", "adl")


def check_url(url: str, allow_urls: Sequence[str]) -> SplitResult:
    """Return the parts of a URL that may be read.

    Raises:
        SourceError: `E_CONFIG_SECRET` for a password, key, token or query in it, `E_URL_DENIED` for what is not allowed.
    """
    parts = _split(url)
    has_user = parts.username is not None and parts.scheme not in (*_WITH_USER, *_WITH_CONTAINER)
    if parts.password is not None or parts.query or parts.fragment or has_user:
        raise SourceError(
            "the corpus URL may hold a secret",
            code="E_CONFIG_SECRET",
            hint="leave out user names, passwords and everything after `?`; put credentials into the environment or a keyring",
        )
    if ".." in unquote(parts.path).split("/") or "::" in url:
        raise _denied("the corpus URL has `..` or `::` in it")
    if not any(_is_below(parts, _split(prefix)) for prefix in allow_urls):
        raise _denied("the corpus URL is not among the allowed prefixes")
    return parts


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise _denied("the corpus URL cannot be read") from None
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", parts.scheme) or not url.isprintable():
        raise _denied("the corpus URL cannot be read")
    return parts


def _is_below(parts: SplitResult, prefix: SplitResult) -> bool:
    """True when a URL is the prefix or lies below it; `s3://docs` does not allow `s3://docs-of-others`."""
    if (parts.scheme, _place(parts)) != (prefix.scheme, _place(prefix)) and (parts.scheme, "") != (prefix.scheme, _place(prefix)):
        return False
    above = unquote(prefix.path).rstrip("/")
    below = unquote(parts.path)
    return below == above or below.startswith(above + "/")


def _place(parts: SplitResult) -> str:
    """Return host and port, with the container where there is one."""
    place = parts.netloc.lower()
    return place.rpartition("@")[2] if parts.scheme in _WITH_USER else place


def _denied(message: str) -> SourceError:
    return SourceError(message, code="E_URL_DENIED", hint="name the place in the policy's list of allowed URLs")


def public_addresses(host: str, port: int) -> tuple[str, ...]:
    """Return the addresses of a web host. Raises `SourceError` unless all of them lie outside every private network."""
    found = _addresses(host, port)
    if not found or not all(ipaddress.ip_address(address.split("%")[0]).is_global for address in found):
        raise _denied("the corpus URL leads into a private network")
    return tuple(found)


def _addresses(host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError:
        raise away("name resolution failed") from None


def away(what: str) -> SourceError:
    """Return the error of a place that does not answer, or not as it should."""
    return SourceError(f"the place of the corpus cannot be read ({what})", code="E_SERVER_AWAY", hint="check it and run again")


def no_access(what: str) -> SourceError:
    """Return the error of refused or missing credentials."""
    return SourceError(f"the place of the corpus refuses access ({what})", code="E_IO", hint="check the credentials")


def optional(module: str, extra: str) -> Any:
    """Return an optional library. Raises `MissingExtraError` naming the extra that brings it."""
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtraError(
            f"reading this place needs the [{extra}] extra",
            code="E_MISSING_EXTRA",
            hint=f"pip install 'spice-enterprise[{extra}]'",
        ) from None
