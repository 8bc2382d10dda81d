"""One folder of an IMAP mailbox, read without a trace: nothing is marked, moved or deleted.

In: `imaps://user@host/folder` (or `imap://` with STARTTLS), and a function that fetches the password.
Out: one document per message, named by its number, and one per attachment (`listing.py`).
Refuses: servers whose certificate does not hold, and to send a password in the clear to any other machine.
Not here: what a mail says (`parsers.py`) and what is attached to it (`attachments.py`).
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, unquote

from spice_enterprise import offline
from spice_enterprise.corpus.listing import CHANGED, Found, ListedSource, Listing, Opened, Refused, too_large
from spice_enterprise.corpus.urls import Secret, away, check_url, no_access, optional
from spice_enterprise.errors import SourceError

_TIMEOUT_S: Final = 60.0
_SECURE_PORT: Final = 993
_PLAIN_PORT: Final = 143


class ImapSource(ListedSource):
    """Every message of one folder, in the order of its number. One connection, opened when the listing begins."""

    def __init__(self, url: str, listing: Listing, *, allow_urls: tuple[str, ...], password: Secret) -> None:
        """Check the place without connecting.

        Args:
            url: Of a folder; `INBOX` when it names none.
            listing: How it may be taken.
            allow_urls: Prefixes that the policy allows.
            password: Called once per connection.

        Raises:
            SourceError: `E_URL_DENIED`, `E_CONFIG_SECRET`.
        """
        parts = check_url(url, allow_urls)
        if parts.scheme not in ("imap", "imaps") or not parts.hostname or not parts.username:
            raise SourceError("this is no mailbox", code="E_URL_DENIED", hint="write imaps://user@host/folder")
        super().__init__(listing, kind="imap")
        self._parts = parts
        self._user = unquote(parts.username)
        self._folder = unquote(parts.path).strip("/") or "INBOX"
        self._password = password
        self._client: Any = None

    def hosts(self) -> tuple[str, ...]:
        """Return the mail server."""
        return (str(self._parts.hostname),)

    def close(self) -> None:
        """Log out."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.logout()

    def _found(self) -> Iterator[Found]:
        try:
            with _machinery():
                numbers = sorted(int(uid) for uid in self._connected().uids("ALL"))
            for number in numbers:
                yield Found(name=f"{self._folder}/{number}.eml", open=partial(self._open, number))
        finally:
            self.close()

    def _open(self, number: int) -> Opened | Refused:
        """Return a message. It is fetched as it is stored, and not marked as read."""
        limit = self._listing.max_file_bytes
        with _machinery():
            _, answer = self._connected().client.uid("FETCH", str(number), f"(BODY.PEEK[]<0.{limit + 1}>)")
        parts = [part for part in answer or () if isinstance(part, tuple) and len(part) == 2]
        if not parts:
            return CHANGED
        data = bytes(parts[0][1])
        if len(data) > limit:
            return too_large(limit, len(data))
        return Opened(data=data, acl_label=f"imap:{self._folder}", owner=f"{self._user}@{self._parts.hostname}")

    def _connected(self) -> Any:
        """Return the mailbox with the folder opened for reading only."""
        if self._client is None:
            client = _connect(self._parts)
            try:
                self._log_in(client)
            except BaseException:
                with suppress(Exception):
                    client.logout()
                raise
            self._client = client
        return self._client

    def _log_in(self, client: Any) -> None:
        errors = optional("imap_tools.errors", "mail")
        try:
            client.login(self._user, self._password(), initial_folder=None)
        except errors.MailboxLoginError:
            raise no_access("login") from None
        try:
            client.folder.set(self._folder, readonly=True)
        except errors.MailboxFolderSelectError:
            raise SourceError("there is no such folder in the mailbox", code="E_NO_CORPUS", hint="check `corpus:`") from None


def _connect(parts: SplitResult) -> Any:
    """Return a connection that is encrypted and checked; only within this machine may it be plain."""
    tools = optional("imap_tools", "mail")
    host = str(parts.hostname)
    if parts.scheme == "imaps":
        context = ssl.create_default_context()
        return tools.MailBox(host, parts.port or _SECURE_PORT, timeout=_TIMEOUT_S, ssl_context=context)
    port = parts.port or _PLAIN_PORT
    if offline.is_local(host):
        return tools.MailBoxUnencrypted(host, port, timeout=_TIMEOUT_S)
    return tools.MailBoxStartTls(host, port, timeout=_TIMEOUT_S, ssl_context=ssl.create_default_context())


@contextmanager
def _machinery() -> Iterator[None]:
    """Turn what the library raises into `SourceError`, without the server's words."""
    try:
        yield
    except (SourceError, ImportError):
        raise
    except ssl.SSLError:
        raise away("the certificate of the mail server does not hold") from None
    except Exception as error:  # noqa: BLE001 - imaplib and the sockets below raise anything
        raise away(type(error).__name__) from None
