"""Wikis and document libraries: Confluence spaces and SharePoint folders, read through their maintained client libraries.

In: `confluence+https://[user@]host/[context/]SPACE` or `sharepoint+https://host/sites/NAME/FOLDER`, and a function that
fetches the token.
Out: pages (as HTML) and attachments or files, page by page of the listing (`listing.py`).
Refuses: pages and files that change between listing and reading (as rejections); tokens over plain HTTP to other machines.
Not here: the web session and its limits (`web_session.py`); what the files mean (`parsers.py`).
"""

import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, unquote

from spice_enterprise import offline
from spice_enterprise.corpus.listing import CHANGED, Found, ListedSource, Listing, Opened, Refused, too_large
from spice_enterprise.corpus.urls import Secret, check_url, optional
from spice_enterprise.corpus.web_session import TIMEOUT_S, AnswerTooLongError, GoneError, guarded_session, machinery
from spice_enterprise.errors import SourceError

_PAGE: Final = 50
_MEDIA_HOST: Final = "api.media.atlassian.com"
"""Where Confluence Cloud keeps attachments."""
_EXPAND: Final = "version,history,restrictions.read.restrictions.user,restrictions.read.restrictions.group"
_SYSTEM_FOLDERS: Final = ("Forms",)
"""What SharePoint keeps in every library for itself."""
_GONE: Final = Refused(code="E_IO", reason="the file is gone")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a listing says of one page or file."""

    place: str = field(repr=False)
    version: str
    size_bytes: int | None = None
    acl_label: str = field(repr=False)
    owner: str = field(repr=False)


class _WikiSource(ListedSource):
    """What both kinds share: the address, the token and the session."""

    def __init__(self, url: str, listing: Listing, *, allow_urls: tuple[str, ...], token: Secret, kind: str) -> None:
        super().__init__(listing, kind=kind)
        self._parts = check_url(url, allow_urls)
        self._token = token
        scheme = self._parts.scheme.removeprefix(f"{kind}+")
        host = self._parts.hostname
        if scheme not in ("https", "http") or not host or (scheme == "http" and not offline.is_local(host)):
            raise SourceError(f"this is no {kind} address", code="E_URL_DENIED", hint=f"write {kind}+https://host/...")
        self._address = f"{scheme}://{self._parts.netloc.rpartition('@')[2]}"
        self._made: Any = None

    def close(self) -> None:
        """End the session."""
        made, self._made = self._made, None
        if made is not None:
            made[1].close()

    def _client(self) -> Any:
        """Return the library's client, made when it is first needed."""
        if self._made is None:
            # answers that list a page of entries are longer than a small file
            session = guarded_session(self.hosts(), self._listing.max_file_bytes + (16 << 20))
            self._made = (self._connected(session), session)
        return self._made[0]

    def _connected(self, session: Any) -> Any:
        raise NotImplementedError

    def _fetched(self, facts: _Facts, fetch: Callable[[], tuple[str, bytes]]) -> Opened | Refused:
        """Return what `fetch` gives, (version, bytes), unless it is another version than was listed."""
        limit = self._listing.max_file_bytes
        if facts.size_bytes is not None and facts.size_bytes > limit:
            return too_large(limit, facts.size_bytes)
        try:
            with machinery():
                version, data = fetch()
        except GoneError:
            return _GONE
        except AnswerTooLongError:
            return too_large(limit, 0)
        if version != facts.version or facts.size_bytes not in (None, len(data)):
            return CHANGED
        return Opened(data=data, acl_label=facts.acl_label, owner=facts.owner)


# --- Confluence -------------------------------------------------------------------------------------------------------


class ConfluenceSource(_WikiSource):
    """Every page and blog post of a space, each followed by its attachments, in the server's order."""

    def __init__(self, url: str, listing: Listing, *, allow_urls: tuple[str, ...], token: Secret) -> None:
        """Check the place without connecting. A user in the URL makes the token that user's API token.

        Raises:
            SourceError: `E_URL_DENIED`, `E_CONFIG_SECRET`.
        """
        super().__init__(url, listing, allow_urls=allow_urls, token=token, kind="confluence")
        context, _, self._space = unquote(self._parts.path).rstrip("/").rpartition("/")
        if not self._space:
            raise SourceError("the wiki address names no space", code="E_URL_DENIED", hint="write confluence+https://host/SPACE")
        self._address += context

    def hosts(self) -> tuple[str, ...]:
        """Return the wiki, and where its cloud keeps attachments."""
        host = str(self._parts.hostname)
        return (host, _MEDIA_HOST) if host.endswith(".atlassian.net") else (host,)

    def _connected(self, session: Any) -> Any:
        user = self._parts.username
        login = {"username": unquote(user), "password": self._token()} if user else {"token": self._token()}
        # the interface of the server is the one that both kinds of Confluence speak under rest/api
        make = optional("atlassian", "wiki").Confluence
        return make(url=self._address, cloud=False, session=session, timeout=TIMEOUT_S, **login)

    def _found(self) -> Iterator[Found]:
        try:
            for kind in ("page", "blogpost"):
                fetch = partial(self._pages, kind)
                for page in _paged(fetch):
                    yield from self._of_page(page)
        except GoneError:
            raise SourceError("there is no such space in the wiki", code="E_NO_CORPUS", hint="check `corpus:`") from None
        finally:
            self.close()

    def _pages(self, kind: str, start: int) -> Any:
        return self._client().get_all_pages_from_space_raw(
            self._space, start=start, limit=_PAGE, expand=_EXPAND, content_type=kind
        )

    def _of_page(self, page: dict[str, Any]) -> Iterator[Found]:
        number = str(page["id"])
        label = self._restricted(page)
        facts = _Facts(place=number, version=_version(page), acl_label=label, owner=_creator(page))
        yield Found(name=f"{self._space}/{number}.html", open=partial(self._open_page, facts))
        for attachment in _paged(partial(self._attachments, number)):
            file = _Facts(
                place=str(attachment.get("_links", {}).get("download", "")),
                version=_version(attachment),
                size_bytes=attachment.get("extensions", {}).get("fileSize"),
                acl_label=label,
                owner=_creator(attachment) or facts.owner,
            )
            name = str(attachment.get("title", "attachment")).replace("/", "_")
            yield Found(name=f"{self._space}/{number}/{name}", open=partial(self._open_attachment, file))

    def _attachments(self, number: str, start: int) -> Any:
        return self._client().get_attachments_from_content(number, start=start, limit=_PAGE, expand="version,history")

    def _open_page(self, facts: _Facts) -> Opened | Refused:
        def fetch() -> tuple[str, bytes]:
            page = self._client().get_page_by_id(facts.place, expand="body.storage,version")
            body = str(page["body"]["storage"]["value"])
            text = f"<!doctype html><html><body><h1>{html.escape(str(page['title']))}</h1>{body}</body></html>"
            return _version(page), text.encode() if body.strip() else b""

        return self._fetched(facts, fetch)

    def _open_attachment(self, facts: _Facts) -> Opened | Refused:
        if not facts.place.startswith("/") or facts.place.startswith("//"):
            return Refused(code="E_PATH", reason="the attachment lies outside the wiki")
        return self._fetched(facts, lambda: (facts.version, self._client().get(facts.place, not_json_response=True)))

    def _restricted(self, page: dict[str, Any]) -> str:
        """Return the space, with the groups and tags of the users that a page is restricted to."""
        allowed = page.get("restrictions", {}).get("read", {}).get("restrictions", {})
        groups = [f"group:{group['name']}" for group in allowed.get("group", {}).get("results", [])]
        users = [f"user:{self._owner_tag(_user(user))}" for user in allowed.get("user", {}).get("results", [])]
        return "|".join([f"confluence:{self._space}", *sorted(groups), *sorted(users)])


def _paged(fetch: Callable[[int], Any]) -> Iterator[dict[str, Any]]:
    """Yield all results of a listing. A server may give fewer at once than were asked for, so its own link decides."""
    start = 0
    while True:
        with machinery():
            answer = fetch(start)
            results = list(answer.get("results") or ())
            is_last = not results or not (answer.get("_links") or {}).get("next")
        yield from results
        if is_last:
            return
        start += len(results)


def _version(content: dict[str, Any]) -> str:
    return str(content.get("version", {}).get("number", ""))


def _creator(content: dict[str, Any]) -> str:
    return _user(content.get("history", {}).get("createdBy", {}))


def _user(user: dict[str, Any]) -> str:
    return str(user.get("accountId") or user.get("userKey") or user.get("username") or "")


# --- SharePoint -------------------------------------------------------------------------------------------------------


class SharePointSource(_WikiSource):
    """Every file below a folder of a document library, in the order of the paths."""

    def __init__(self, url: str, listing: Listing, *, allow_urls: tuple[str, ...], token: Secret) -> None:
        """Check the place without connecting; the folder is `Shared Documents` when the URL names none.

        Raises:
            SourceError: `E_URL_DENIED`, `E_CONFIG_SECRET`.
        """
        super().__init__(url, listing, allow_urls=allow_urls, token=token, kind="sharepoint")
        self._site, self._folder = _site_and_folder(self._parts)

    def hosts(self) -> tuple[str, ...]:
        """Return the site's host."""
        return (str(self._parts.hostname),)

    def _connected(self, session: Any) -> Any:
        token = {"tokenType": "Bearer", "accessToken": self._token()}
        make = optional("office365.sharepoint.client_context", "wiki").ClientContext
        return (
            make(self._address + self._site).with_transport(session=session, timeout=TIMEOUT_S).with_access_token(lambda: token)
        )

    def _found(self) -> Iterator[Found]:
        try:
            for facts in self._below(self._folder):
                yield Found(name=facts.place[len(self._folder) :].lstrip("/"), open=partial(self._open, facts))
        except GoneError:
            raise SourceError("there is no such folder on the site", code="E_NO_CORPUS", hint="check `corpus:`") from None
        finally:
            self.close()

    def _below(self, top: str) -> Iterator[_Facts]:
        waiting = [iter(self._listed(top))]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif isinstance(entry, str):
                waiting.append(iter(self._listed(entry)))
            else:
                yield entry

    def _listed(self, path: str) -> list[_Facts | str]:
        """Return the files of a folder and the paths of its folders, sorted together; long listings come in several answers."""
        with machinery():
            folder = self._client().web.get_folder_by_server_relative_path(path)
            names = ["Name", "ServerRelativeUrl", "Length", "UIVersionLabel", "TimeLastModified", "Author/LoginName"]
            files = folder.files.select([*names, "ListItemAllFields/HasUniqueRoleAssignments"])
            files = files.expand(["Author", "ListItemAllFields"]).paged(_PAGE).get().execute_query()
            found: dict[str, _Facts | str] = {file.properties["Name"]: self._facts(path, file.properties) for file in files}
            for inner in folder.folders.select(["Name"]).paged(_PAGE).get().execute_query():
                name = str(inner.properties["Name"])
                if name not in _SYSTEM_FOLDERS and not name.startswith("."):
                    found[name] = f"{path}/{name}"
        return [found[name] for name in sorted(found)]

    def _facts(self, path: str, known: dict[str, Any]) -> _Facts:
        item = _properties(known.get("ListItemAllFields"))
        label = f"sharepoint:{self._site or '/'}"
        return _Facts(
            place=f"{path}/{known['Name']}",
            version=f"{known.get('UIVersionLabel')}",
            size_bytes=int(known["Length"]),
            acl_label=f"{label}|restricted" if item.get("HasUniqueRoleAssignments") else label,
            owner=str(_properties(known.get("Author")).get("LoginName", "")),
        )

    def _open(self, facts: _Facts) -> Opened | Refused:
        def fetch() -> tuple[str, bytes]:
            file = self._client().web.get_file_by_server_relative_path(facts.place)
            return facts.version, bytes(file.get_content().execute_query().value)

        return self._fetched(facts, fetch)


def _properties(value: Any) -> dict[str, Any]:
    """Return what the library made of an expanded field."""
    found = getattr(value, "properties", value)
    return found if isinstance(found, dict) else {}


def _site_and_folder(parts: SplitResult) -> tuple[str, str]:
    """Return the paths of the site and of the folder on the server."""
    steps = [step for step in unquote(parts.path).split("/") if step]
    length = 2 if steps[:1] in (["sites"], ["teams"]) else 0
    site = "".join(f"/{step}" for step in steps[:length])
    return site, site + "".join(f"/{step}" for step in steps[length:] or ["Shared Documents"])
