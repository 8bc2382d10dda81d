import json
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from pytest_socket import enable_socket

from spice_enterprise.corpus import urls
from spice_enterprise.corpus.opening import open_source
from spice_enterprise.corpus.remote import FsspecSource
from spice_enterprise.corpus.sources import FolderSource
from spice_enterprise.corpus.wiki import ConfluenceSource, SharePointSource
from spice_enterprise.errors import MissingExtraError, SourceError
from tests.unit.corpus.test_archives import make_zip
from tests.unit.corpus.test_sources import listing, outcome

TOKEN = "invented-token"


class Handler(BaseHTTPRequestHandler):
    """Answers with what the test's `answer(path, query)` returns: JSON, bytes, a status or a redirect."""

    def do_GET(self):
        parts = urlsplit(self.path)
        self.server.seen.append((self.command, parts.path, self.headers.get("Authorization", "")))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        found = self.server.answer(unquote(parts.path), query)
        status = found if isinstance(found, int) else 302 if isinstance(found, str) else 200
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        if isinstance(found, str):
            self.send_header("Location", found)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    """Start a web server that answers with a function of path and query."""
    enable_socket()
    running = []

    def start(answer):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.answer, server.seen = answer, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def source(kind, server, path, **changes):
    url = f"{kind}+http://127.0.0.1:{server.server_port}/{path}"
    return open_source(url, listing(**changes), allow_urls=(url,), secret=lambda: TOKEN)


# --- Confluence -------------------------------------------------------------------------------------------------------


def page(number, **changes):
    return {
        "id": str(number), "title": f"Page <{number}>", "version": {"number": 1},
        "history": {"createdBy": {"username": "invented"}},
        "body": {"storage": {"value": f"<p>Text of {number}.</p>"}}, **changes,
    }  # fmt: skip


class Space:
    """A space `LEGAL` of which the server gives two pages at once, whatever is asked for."""

    def __init__(self, *pages, attachments=None, files=None):
        self.pages, self.attachments, self.files = list(pages), attachments or {}, files or {}

    def __call__(self, path, query):
        if path in self.files:
            return self.files[path]
        if path == "/rest/api/content":
            pages = self.pages if query["type"] == "page" and query["spaceKey"] == "LEGAL" else []
            return self.some(pages, query)
        number = path.split("/")[4]
        if path.endswith("/child/attachment"):
            return self.some(self.attachments.get(number, []), query)
        return next((page for page in self.pages if page["id"] == number), 404)

    def some(self, found, query):
        start = int(query.get("start", 0))
        links = {"next": "/rest/api/..."} if start + 2 < len(found) else {}
        return {"results": found[start : start + 2], "_links": links}


def attachment(title, link, size):
    return {
        "id": "att1", "title": title, "version": {"number": 1}, "extensions": {"fileSize": size}, "_links": {"download": link}
    }  # fmt: skip


@pytest.fixture
def confluence():
    pytest.importorskip("atlassian")


def test_a_space_is_read_page_by_page(serve, confluence):
    server = serve(Space(*(page(n) for n in range(1, 6))))
    found = source("confluence", server, "LEGAL")
    documents = []
    for document in found.documents():
        documents.append(document)
        assert found.read(document).decode() == (
            f"<!doctype html><html><body><h1>Page &lt;{len(documents)}&gt;</h1><p>Text of {len(documents)}.</p></body></html>"
        )
    assert [d.uri for d in documents] == [f"LEGAL/{n}.html" for n in range(1, 6)]
    assert {(d.acl_label, d.source_kind, d.owner[:6], d.media_type) for d in documents} == {
        ("confluence:LEGAL", "confluence", "owner_", "text/html")
    }
    assert {(command, authorization) for command, _, authorization in server.seen} == {("GET", f"Bearer {TOKEN}")}
    found.read(documents[0])
    found.close()


def test_attachments_follow_their_page(serve, confluence):
    data = make_zip(("a.txt", "x"))
    files = {"/download/1/x.zip": data, "/download/1/y.pdf": b"%PDF-1.7"}
    listed = [
        attachment("../x.zip", "/download/1/x.zip?version=1", len(data)), attachment("y.pdf", "/download/1/y.pdf", 8),
        attachment("z.pdf", "/download/1/y.pdf", 9), attachment("large.pdf", "/download/1/y.pdf", 100_001),
        attachment("away.pdf", "https://other.example/y.pdf", 8), attachment("gone.pdf", "/rest/api/content/9", 8),
    ]  # fmt: skip
    found = source("confluence", serve(Space(page(1), attachments={"1": listed}, files=files)), "LEGAL")
    assert outcome(found.documents()) == {
        "LEGAL/1.html": "document", "LEGAL/1/.._x.zip!/a.txt": "document", "LEGAL/1/y.pdf": "document", "LEGAL/1/z.pdf": "E_IO",
        "LEGAL/1/large.pdf": "E_LIMIT", "LEGAL/1/away.pdf": "E_PATH", "LEGAL/1/gone.pdf": "E_IO",
    }  # fmt: skip


def test_who_a_page_is_restricted_to(serve, confluence):
    restrictions = {"group": {"results": [{"name": "legal"}]}, "user": {"results": [{"username": "invented"}]}}
    secret = page(1, restrictions={"read": {"restrictions": restrictions}})
    (document,) = source("confluence", serve(Space(secret)), "LEGAL").documents()
    assert document.acl_label == f"confluence:LEGAL|group:legal|user:{document.owner}"


def test_a_page_that_changes_after_it_was_listed(serve, confluence):
    space = Space(page(1), page(2), page(3))
    found = source("confluence", serve(space), "LEGAL")
    walk = found.documents()
    next(walk)
    space.pages[1] = page(2, version={"number": 2})
    assert [getattr(item, "code", "document") for item in walk] == ["E_IO", "document"]


def test_empty_pages_and_empty_spaces(serve, confluence):
    empty = page(1, body={"storage": {"value": " "}})
    assert outcome(source("confluence", serve(Space(empty)), "LEGAL").documents()) == {"LEGAL/1.html": "E_EMPTY"}
    with pytest.raises(SourceError) as caught:
        list(source("confluence", serve(Space()), "LEGAL").documents())
    assert caught.value.code == "E_EMPTY_CORPUS"


@pytest.mark.parametrize(("status", "code"), [(401, "E_IO"), (403, "E_IO"), (404, "E_NO_CORPUS"), (500, "E_SERVER_AWAY")])
def test_a_wiki_that_refuses_is_an_error_without_its_words(serve, confluence, status, code):
    with pytest.raises(SourceError) as caught:
        list(source("confluence", serve(lambda path, query: status), "LEGAL").documents())
    assert caught.value.code == code
    assert TOKEN not in caught.value.explain()


def test_a_redirect_to_another_host_is_refused(serve, confluence):
    other = serve(Space(page(1)))
    target = f"http://localhost:{other.server_port}/rest/api/content"
    with pytest.raises(SourceError) as caught:
        list(source("confluence", serve(lambda path, query: target), "LEGAL").documents())
    assert caught.value.code == "E_URL_DENIED"
    assert other.seen == []


def test_an_answer_longer_than_allowed_is_not_read(serve, confluence):
    space = Space(page(1), attachments={"1": [attachment("a.pdf", "/f", None)]}, files={"/f": b"x" * (17 << 20)})
    found = source("confluence", serve(space), "LEGAL", max_file_bytes=1000)
    _, rejection = found.documents()
    # a body that had been read whole would have a size
    assert (rejection.code, rejection.size_bytes) == ("E_LIMIT", 0)


def test_pages_are_not_written_into_the_log(serve, confluence, caplog):
    caplog.set_level(logging.DEBUG)
    list(source("confluence", serve(Space(page(1))), "LEGAL").documents())
    assert "Text of 1" not in caplog.text


def test_a_user_in_the_address_logs_in_with_it(serve, confluence):
    server = serve(Space(page(1)))
    url = f"confluence+http://jane%40corp.example@127.0.0.1:{server.server_port}/LEGAL"
    found = ConfluenceSource(url, listing(), allow_urls=(url,), token=lambda: TOKEN)
    assert len(list(found.documents())) == 1
    assert server.seen[0][2].startswith("Basic ")


# --- SharePoint -------------------------------------------------------------------------------------------------------


class Library:
    """`/sites/legal/Docs` with files by path below it."""

    def __init__(self, files, restricted=()):
        self.files, self.restricted = files, restricted

    def __call__(self, path, query):
        if path.lower().endswith("/_api/contextinfo"):
            return {"d": {"GetContextWebInformation": {"FormDigestValue": "0x1,now", "FormDigestTimeoutSeconds": 1800}}}
        place = re.search(r"DecodedUrl='(.*)'\)", path).group(1).replace("''", "'")
        if path.lower().endswith("/$value"):
            return self.files.get(place, 404)
        inner = sorted({name[len(place) + 1 :] for name in self.files if name.startswith(place + "/")}, reverse=True)
        if not inner:
            return 404
        if path.endswith("/Folders"):
            return self.answer([{"Name": name} for name in {i.partition("/")[0] for i in inner if "/" in i}])
        names = [name for name in inner if "/" not in name]
        start = int(query.get("$skiptoken", 0))
        found = [self.file(f"{place}/{name}", name) for name in names[start : start + 2]]
        link = f"{self.url}{path}?$skiptoken={start + 2}".replace(" ", "%20") if start + 2 < len(names) else None
        return self.answer(found, link)

    def file(self, place, name):
        return {
            "Name": name, "ServerRelativeUrl": place, "Length": str(len(self.files[place])), "UIVersionLabel": "1.0",
            "Author": {"LoginName": "i:0#.f|membership|invented"},
            "ListItemAllFields": {"HasUniqueRoleAssignments": place in self.restricted},
        }  # fmt: skip

    def answer(self, results, link=None):
        return {"d": {"results": results, **({"__next": link} if link else {})}}


@pytest.fixture
def sharepoint():
    pytest.importorskip("office365")


def library(serve, files, **changes):
    answer = Library({f"/sites/legal/Docs/{name}": data for name, data in files.items()}, **changes)
    server = serve(answer)
    answer.url = f"http://127.0.0.1:{server.server_port}"
    return server


def test_a_library_is_read_in_path_order(serve, sharepoint):
    files = {
        "b.txt": b"bb",
        "a/z.md": b"z",
        "a/it's.pdf": b"c",
        "c.txt": b"c",
        "Forms/x.aspx": b"x",
        "d.zip": make_zip(("i.txt", "x")),
    }
    server = library(serve, files, restricted=("/sites/legal/Docs/b.txt",))
    found = source("sharepoint", server, "sites/legal/Docs")
    documents = list(found.documents())
    assert [d.uri for d in documents] == ["a/it's.pdf", "a/z.md", "b.txt", "c.txt", "d.zip!/i.txt"]
    labels = [d.acl_label for d in documents]
    assert labels[2] == "sharepoint:/sites/legal|restricted"
    assert set(labels) - {labels[2]} == {"sharepoint:/sites/legal"}
    assert {d.owner[:6] for d in documents} == {"owner_"}
    assert found.read(documents[2]) == b"bb"
    found.close()
    written = [path for command, path, _ in server.seen if command != "GET"]
    assert {path.lower() for path in written} == {"/sites/legal/_api/contextinfo"}


def test_files_that_are_gone_too_large_or_empty(serve, sharepoint):
    server = library(serve, {"a.txt": b"x", "b.txt": b"x" * 100_001, "c.txt": b"", "d.txt": b"x"})
    found = source("sharepoint", server, "sites/legal/Docs").documents()
    first = next(found)
    del server.answer.files["/sites/legal/Docs/d.txt"]
    assert outcome([first, *found]) == {"a.txt": "document", "b.txt": "E_LIMIT", "c.txt": "E_EMPTY", "d.txt": "E_IO"}


def test_a_folder_that_is_not_there(serve, sharepoint):
    with pytest.raises(SourceError) as caught:
        list(source("sharepoint", library(serve, {"a.txt": b"x"}), "sites/legal/Nowhere").documents())
    assert caught.value.code == "E_NO_CORPUS"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("sites/hr", ("/sites/hr", "/sites/hr/Shared Documents")),
        ("", ("", "/Shared Documents")),
        ("teams/x/A%20B/C", ("/teams/x", "/teams/x/A B/C")),
    ],
)
def test_site_and_folder_of_an_address(path, place):
    url = f"sharepoint+https://corp.example/{path}"
    found = SharePointSource(url, listing(), allow_urls=("sharepoint+https://corp.example",), token=lambda: TOKEN)
    assert (found._site, found._folder) == place
    assert found.hosts() == ("corp.example",)


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("confluence+http://wiki.example/LEGAL", "E_URL_DENIED"),
        ("confluence+ftp://wiki.example/LEGAL", "E_URL_DENIED"),
        ("confluence+https://wiki.example/", "E_URL_DENIED"),
        ("sharepoint+http://corp.example/sites/x", "E_URL_DENIED"),
        ("confluence+https://u:hunter2@wiki.example/LEGAL", "E_CONFIG_SECRET"),
    ],
)
def test_addresses_that_are_refused(url, code):
    with pytest.raises(SourceError) as caught:
        open_source(url, listing(), allow_urls=(url,), secret=lambda: TOKEN)
    assert caught.value.code == code
    assert "hunter2" not in caught.value.explain()


def test_attachments_of_the_cloud_lie_on_another_host():
    url = "confluence+https://u@corp.atlassian.net/wiki/LEGAL"
    found = ConfluenceSource(url, listing(), allow_urls=("confluence+https://corp.atlassian.net",), token=lambda: TOKEN)
    assert found.hosts() == ("corp.atlassian.net", "api.media.atlassian.com")


def test_the_corpus_string_picks_the_source(tmp_path):
    pytest.importorskip("fsspec")
    assert isinstance(open_source(str(tmp_path), listing(), allow_urls=(), secret=str), FolderSource)
    assert isinstance(open_source("memory://x", listing(), allow_urls=("memory://",), secret=str), FsspecSource)
    assert open_source("imaps://u@h", listing(), allow_urls=("imaps://h",), secret=str).hosts() == ("h",)


def test_a_missing_library_names_the_extra(monkeypatch):
    def missing(module):
        raise ImportError

    monkeypatch.setattr(urls, "import_module", missing)
    found = open_source("confluence+https://h/LEGAL", listing(), allow_urls=("confluence+https://h",), secret=str)
    with pytest.raises(MissingExtraError) as caught:
        list(found.documents())
    assert caught.value.hint == "pip install 'spice-enterprise[wiki]'"
