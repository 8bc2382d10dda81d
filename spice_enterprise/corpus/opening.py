"""The source that a corpus string names.

In: the `corpus:` of a config, the `Listing`, the allowed URL prefixes and a function that fetches a password or token.
Out: a `Source`.
Refuses: places outside this machine that the policy does not allow (`E_URL_DENIED`).
Not here: the sources themselves; letting their hosts through the connection guard (`offline.py`).
"""

from pathlib import Path

from spice_enterprise.corpus.listing import ListedSource, Listing
from spice_enterprise.corpus.mailbox import ImapSource
from spice_enterprise.corpus.remote import FsspecSource
from spice_enterprise.corpus.sources import FileSource, FolderSource
from spice_enterprise.corpus.urls import Secret
from spice_enterprise.corpus.wiki import ConfluenceSource, SharePointSource


def open_source(corpus: str, listing: Listing, *, allow_urls: tuple[str, ...], secret: Secret) -> ListedSource:
    """Return the source of a folder, a file, `imap(s)://`, `confluence+https://`, `sharepoint+https://` or any other URL.

    Args:
        corpus: A local folder or a URL without credentials.
        listing: How it may be taken.
        allow_urls: Prefixes that may be read besides local folders.
        secret: Fetches the mailbox's password or the wiki's token; object stores use their own library's credentials.

    Raises:
        SourceError: `E_URL_DENIED`, `E_CONFIG_SECRET`, `E_NO_CORPUS`.
        MissingExtraError: When the place needs an extra that is not installed.
    """
    scheme = corpus.partition("://")[0] if "://" in corpus else ""
    if not scheme:
        path = Path(corpus)
        return FileSource(path, listing) if path.is_file() else FolderSource(path, listing)
    if scheme in ("imap", "imaps"):
        return ImapSource(corpus, listing, allow_urls=allow_urls, password=secret)
    if scheme.startswith("confluence+"):
        return ConfluenceSource(corpus, listing, allow_urls=allow_urls, token=secret)
    if scheme.startswith("sharepoint+"):
        return SharePointSource(corpus, listing, allow_urls=allow_urls, token=secret)
    return FsspecSource(corpus, listing, allow_urls=allow_urls)
