"""Object stores and other file systems that fsspec reaches: S3, Google Cloud Storage, Azure, and more.

In: a URL that the policy allows; credentials come from the environment of the store's own library.
Out: documents and rejections in the order of their paths, one folder's listing at a time (`listing.py`).
Refuses: objects that change between listing and reading, links (as rejections); web hosts in private networks, redirects.
Not here: writing and caching; mailboxes (`mailbox.py`) and wikis (`wiki.py`).
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from spice_enterprise.corpus.listing import CHANGED, Found, ListedSource, Listing, Opened, Refused, too_large
from spice_enterprise.corpus.urls import away, check_url, no_access, optional, public_addresses
from spice_enterprise.errors import MissingExtraError, SourceError

T = TypeVar("T")

_WEB: Final = ("http", "https")
_CACHES: Final = ("filecache", "blockcache", "simplecache", "cached", "reference", "data", "dask", "generic", "dir")
"""fsspec schemes that write copies or wrap another place."""
_GOOGLE: Final = ("storage.googleapis.com", "oauth2.googleapis.com", "metadata.google.internal")
_MARKS: Final = ("ETag", "etag", "generation", "md5Hash")
_TIMES: Final = ("mtime", "LastModified", "last_modified", "created")
_MAX_FOLDERS_DEEP: Final = 100
"""A store may invent folders without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What a listing says of one file."""

    path: str = field(repr=False)
    kind: str
    size_bytes: int | None
    mark: str
    """Changes when the content does, as far as the store tells."""
    acl_label: str = field(default="", repr=False)
    owner: str = field(default="", repr=False)


class FsspecSource(ListedSource):
    """Every file below a URL."""

    def __init__(self, url: str, listing: Listing, *, allow_urls: tuple[str, ...]) -> None:
        """Check the place without reading it.

        Args:
            url: Of a folder or a single file, without credentials.
            listing: How it may be taken.
            allow_urls: Prefixes that the policy allows.

        Raises:
            SourceError: `E_URL_DENIED`, `E_CONFIG_SECRET`.
            MissingExtraError: When the scheme's library is not installed.
        """
        parts = check_url(url, allow_urls)
        super().__init__(listing, kind=parts.scheme)
        self._parts = parts
        self._files, root = _filesystem(url, parts)
        self._root = str(root).rstrip("/")

    def hosts(self) -> tuple[str, ...]:
        """Return the hosts that the store's library talks to."""
        scheme = self._parts.scheme
        if scheme in ("s3", "s3a"):
            with _machinery():
                host = str(urlsplit(str(self._files.s3.meta.endpoint_url)).hostname)
            return (host, f"{self._parts.netloc}.{host}")
        if scheme in ("gs", "gcs"):
            return _GOOGLE
        if scheme in ("abfs", "abfss", "az", "adl"):
            return (f"{self._files.account_name}.blob.core.windows.net", "login.microsoftonline.com")
        return (self._parts.hostname,) if self._parts.hostname and scheme not in ("memory", "file", "local") else ()

    def _found(self) -> Iterator[Found]:
        with _machinery():
            try:
                facts = self._files.info(self._root)
            except FileNotFoundError:
                raise SourceError("there is nothing at the corpus URL", code="E_NO_CORPUS", hint="check `corpus:`") from None
        if facts["type"] == "file":
            entry = _entry(facts, self._root)
            yield Found(name=entry.path.rpartition("/")[2], open=partial(self._open, entry))
            return
        for entry in self._entries():
            name = entry.path[len(self._root) :].lstrip("/")
            yield Found(name=name, open=partial(self._open, entry))

    def _entries(self) -> Iterator[_Entry]:
        """Yield what is no folder, in the order of the paths."""
        waiting = [iter(self._listed(self._root))]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif entry.kind == "directory":
                if len(waiting) > _MAX_FOLDERS_DEEP:
                    raise SourceError("folders are nested without end", code="E_LIMIT_DEPTH", hint="name a smaller part")
                waiting.append(iter(self._listed(entry.path)))
            else:
                yield entry

    def _listed(self, folder: str) -> list[_Entry]:
        """Return a folder's entries, sorted. Dotfiles and the empty objects that stand for folders are passed over."""
        try:
            with _machinery():
                facts = self._files.ls(folder, detail=True)
        except FileNotFoundError:
            # it went away since its own folder was listed
            return []
        entries = [_entry(fact, folder) for fact in facts if not _stands_for(fact, folder)]
        visible = [entry for entry in entries if not entry.path.rpartition("/")[2].startswith(".")]
        return sorted(visible, key=lambda entry: (entry.path, entry.kind))

    def _open(self, entry: _Entry) -> Opened | Refused:
        limit = self._listing.max_file_bytes
        if entry.kind != "file":
            return Refused(code="E_PATH", reason="not a regular file below the corpus")
        if entry.size_bytes is not None and entry.size_bytes > limit:
            return too_large(limit, entry.size_bytes)
        try:
            with _machinery():
                data = self._bytes(entry, limit + 1)
                after = _entry(self._files.info(entry.path), entry.path.rpartition("/")[0])
        except (FileNotFoundError, IsADirectoryError):
            return Refused(code="E_IO", reason="the file is gone")
        if len(data) > limit:
            return too_large(limit, len(data))
        if entry.size_bytes not in (None, len(data)) or after.mark != entry.mark:
            return CHANGED
        return Opened(data=data, acl_label=entry.acl_label, owner=entry.owner)

    def _bytes(self, entry: _Entry, most: int) -> bytes:
        """Return at most `most` bytes."""
        if entry.size_bytes == 0:
            return b""
        if self._parts.scheme not in _WEB:
            return bytes(self._files.cat_file(entry.path, start=0, end=most))
        # a web server may ignore the range, so what it sends is read piece by piece
        with self._files.open(entry.path, "rb", cache_type="none") as file:
            return bytes(file.read(most))


def _entry(facts: dict[str, Any], folder: str) -> _Entry:
    """Return what matters of a listing's entry; one that does not lie in its folder is of no readable kind."""
    path = str(facts["name"])
    is_file = facts.get("type") == "file" and not facts.get("islink")
    name = path[len(folder) + 1 :] if path.startswith(folder + "/") else ""
    is_below = path == folder or (bool(name.rstrip("/")) and "/" not in name.rstrip("/") and name not in (".", ".."))
    kind = "file" if is_file else str(facts.get("type"))
    size = facts.get("size")
    return _Entry(
        path=path.rstrip("/") if kind == "directory" else path,
        kind=kind if is_below and not facts.get("islink") else "other",
        size_bytes=size if isinstance(size, int) else None,
        mark=_mark(facts),
        acl_label=_metadata(facts, "acl"),
        owner=_owner(facts),
    )


def _mark(facts: dict[str, Any]) -> str:
    """Return size and version; the time of the last change for places that give no version."""
    known = [key for key in _MARKS if facts.get(key)] or [key for key in _TIMES if facts.get(key)]
    return "|".join([str(facts.get("size")), *(f"{key}={_plain(facts[key])}" for key in known)])


def _plain(value: Any) -> Any:
    """Return a time as a number: some places list numbers and tell times of a single file."""
    return value.timestamp() if isinstance(value, datetime) else value


def _stands_for(facts: dict[str, Any], folder: str) -> bool:
    return str(facts["name"]).rstrip("/") == folder and not facts.get("size")


def _metadata(facts: dict[str, Any], key: str) -> str:
    metadata = facts.get("metadata")
    return str(metadata.get(key, "")) if isinstance(metadata, dict) else ""


def _owner(facts: dict[str, Any]) -> str:
    """Return the owner where a listing names one: S3 as `Owner.ID`, Google as `owner.entity`, a disk as a number."""
    for key, inner in (("Owner", "ID"), ("owner", "entity")):
        owner = facts.get(key)
        if isinstance(owner, dict) and owner.get(inner):
            return str(owner[inner])
    return str(facts.get("uid", ""))


@contextmanager
def _machinery() -> Iterator[None]:
    """Turn what a store's library raises into `SourceError`; a missing file stays what it is."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, SourceError, MissingExtraError):
        raise
    except PermissionError:
        raise no_access("PermissionError") from None
    except Exception as error:  # noqa: BLE001 - each library has its own errors, with addresses and keys in their text
        if "Credential" in type(error).__name__:
            raise no_access(type(error).__name__) from None
        raise away(type(error).__name__) from None


def _filesystem(url: str, parts: SplitResult) -> tuple[Any, str]:
    """Return the file system and the path within it."""
    if parts.scheme in _CACHES:
        raise SourceError("this kind of URL is not read", code="E_URL_DENIED", hint="name the place itself")
    fsspec = optional("fsspec", "cloud")
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if parts.scheme in _WEB:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        options["get_client"] = _client_for(public_addresses(parts.hostname or "", port))
    try:
        files, path = fsspec.core.url_to_fs(url, **options)
    except ImportError:
        raise MissingExtraError(
            f"reading {parts.scheme}:// needs the [cloud] extra",
            code="E_MISSING_EXTRA",
            hint="pip install 'spice-enterprise[cloud]'",
        ) from None
    except ValueError:
        raise SourceError("this kind of URL is not known", code="E_URL_DENIED", hint="see fsspec for what can be read") from None
    return files, str(path)


# --- web hosts --------------------------------------------------------------------------------------------------------


def _client_for(addresses: tuple[str, ...]) -> Callable[..., Any]:
    """Return what makes fsspec's web client: it connects to these addresses only and follows no redirect."""
    aiohttp = optional("aiohttp", "cloud")

    class Pinned(aiohttp.abc.AbstractResolver):  # type: ignore[misc, name-defined]
        """Answers with what was checked, however the name resolves later."""

        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
            known = [a for a in addresses if family in (0, 10 if ":" in a else 2)]
            return [
                {"hostname": host, "host": a, "port": port, "family": 10 if ":" in a else 2, "proto": 0, "flags": 4}
                for a in known
            ]

        async def close(self) -> None:
            """Nothing is held."""

    async def refuse(*_: object) -> None:
        raise SourceError("the place of the corpus redirects elsewhere", code="E_URL_DENIED", hint="name the final address")

    async def make(loop: asyncio.AbstractEventLoop, **options: Any) -> Any:
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(refuse)
        connector = aiohttp.TCPConnector(resolver=Pinned(), loop=loop)
        return aiohttp.ClientSession(loop=loop, connector=connector, trace_configs=[trace], trust_env=False)

    return make
