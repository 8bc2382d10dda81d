import logging
import socket

import pytest
from pytest_socket import enable_socket

from spice_enterprise.corpus import remote, urls
from spice_enterprise.corpus.remote import FsspecSource
from spice_enterprise.errors import MissingExtraError, SourceError
from spice_enterprise.records import Document
from tests.unit.corpus.test_archives import make_zip
from tests.unit.corpus.test_sources import listing, outcome

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    return files


def source(url, allow=None, **changes):
    return FsspecSource(url, listing(**changes), allow_urls=(url,) if allow is None else allow)


def code_of(url, allow=None):
    with pytest.raises(SourceError) as caught:
        source(url, allow)
    return caught.value.code


# --- what may be read at all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("s3://docs/legal", ()),
        ("s3://docs-of-others/legal", ("s3://docs",)),
        ("s3://docs/legality", ("s3://docs/legal",)),
        ("s3://docs/legal/../board", ("s3://docs/legal",)),
        ("s3://docs/legal/%2e%2e/board", ("s3://docs/legal",)),
        ("gs://docs/legal", ("s3://docs",)),
        ("simplecache::s3://docs", ("simplecache::s3://docs", "s3://docs")),
        ("simplecache://docs", ("simplecache://docs",)),
        ("nosuchscheme://docs", ("nosuchscheme://docs",)),
        ("s3://docs\n/legal", ("s3://docs",)),
        ("s3://docs:port/legal", ("s3://docs",)),
        ("/etc", ("/etc",)),
    ],
)
def test_only_allowed_urls_are_read(url, allow):
    assert code_of(url, allow) == "E_URL_DENIED"


@pytest.mark.parametrize("url", ["s3://KEY:hunter2@docs", "s3://hunter2@docs", "az://c/p?sig=hunter2", "gs://docs#hunter2"])
def test_secrets_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(SourceError) as caught:
        source(url, (url,))
    assert caught.value.code == "E_CONFIG_SECRET"
    assert "hunter2" not in caught.value.explain()


@pytest.mark.parametrize(
    ("url", "allow"), [("s3://docs/a b", "s3://docs"), ("s3://docs", "s3://docs/"), ("memory://x/y", "memory://")]
)
def test_what_lies_below_a_prefix_is_allowed(url, allow):
    assert urls.check_url(url, (allow,)).scheme == url.partition(":")[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.9", "[::1]", "[fd00::1]", "100.64.0.1"])
def test_web_hosts_in_private_networks_are_refused(host):
    assert code_of(f"http://{host}/docs") == "E_URL_DENIED"


def test_a_name_that_leads_to_a_private_address_is_refused(monkeypatch):
    found = [(socket.AF_INET, 1, 6, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.7")]
    monkeypatch.setattr(urls.socket, "getaddrinfo", lambda *args, **kwargs: found)
    assert code_of("https://docs.example/a") == "E_URL_DENIED"


def test_a_missing_library_names_the_extra(monkeypatch):
    def missing(module):
        raise ImportError

    monkeypatch.setattr(urls, "import_module", missing)
    with pytest.raises(MissingExtraError) as caught:
        source("s3://docs")
    assert (caught.value.code, caught.value.hint) == ("E_MISSING_EXTRA", "pip install 'spice-enterprise[cloud]'")


def test_a_missing_store_library_names_the_extra(monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("Install s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtraError):
        source("s3://docs")


# --- listing and reading ----------------------------------------------------------------------------------------------


def test_a_store_is_listed_in_path_order_and_read_once(memory):
    for name in ("b.txt", "a/z.md", "a/c.pdf", "a-1.txt", ".git/config", "a/.hidden"):
        memory.pipe(f"/docs/{name}", name.encode())
    memory.pipe("/docs2/x.txt", b"beside")
    found = source("memory://docs", acl_label="team")
    documents = list(found.documents())
    assert [d.uri for d in documents] == ["a/c.pdf", "a/z.md", "a-1.txt", "b.txt"]
    assert {(d.source_kind, d.acl_label) for d in documents} == {("memory", "team")}
    assert [found.read(d) for d in documents] == [d.uri.encode() for d in documents]
    assert found.hosts() == ()


def test_one_file_is_a_corpus_too(memory):
    memory.pipe("/docs/a.txt", b"x")
    found = source("memory://docs/a.txt")
    (document,) = found.documents()
    assert (document.uri, found.read(document)) == ("a.txt", b"x")


def test_what_may_not_be_read_is_a_rejection(memory):
    memory.pipe({"/d/empty.txt": b"", "/d/large.txt": b"x" * 100_001, "/d/good.txt": b"x", "/d/z.zip": make_zip(("a.txt", "y"))})
    assert outcome(source("memory://d").documents()) == {
        "empty.txt": "E_EMPTY", "good.txt": "document", "large.txt": "E_LIMIT", "z.zip!/a.txt": "document",
    }  # fmt: skip


def test_a_file_that_changes_after_it_was_listed(memory):
    memory.pipe({"/d/a.txt": b"x", "/d/b.txt": b"y", "/d/c.txt": b"z"})
    found = source("memory://d")
    walk = found.documents()
    first = next(walk)
    memory.pipe("/d/b.txt", b"w")
    memory.rm("/d/c.txt")
    assert [(item.uri, item.code) for item in walk] == [("b.txt", "E_IO"), ("c.txt", "E_IO")]
    memory.pipe("/d/a.txt", b"w")
    with pytest.raises(SourceError):
        found.read(first)


def test_nothing_there_and_too_much(memory):
    with pytest.raises(SourceError) as missing:
        list(source("memory://nothing").documents())
    memory.pipe({f"/d/{i}.txt": b"x" for i in range(4)})
    with pytest.raises(SourceError) as many:
        list(source("memory://d", max_documents=3).documents())
    assert (missing.value.code, many.value.code) == ("E_NO_CORPUS", "E_LIMIT")


def test_links_on_a_disk_are_not_followed(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("x")
    (tmp_path / "docs" / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "docs" / "loop").symlink_to(tmp_path)
    found = source(f"file://{tmp_path}/docs")
    assert outcome(found.documents()) == {"a.txt": "document", "loop": "E_PATH", "passwd": "E_PATH"}


class Lying:
    """A store whose listing says what it likes."""

    def __init__(self, names, error=None):
        self.names, self.error = names, error

    def info(self, path):
        return {"name": path, "type": "directory" if path == "d" else "file", "size": 1, "ETag": "1"}

    def ls(self, path, detail):
        if self.error:
            raise self.error
        facts = {"type": "file", "size": 1, "ETag": "1", "Owner": {"ID": "x"}, "metadata": {"acl": "hr"}}
        return [{"name": name, **facts} for name in self.names]

    def cat_file(self, path, start, end):
        return b"x" * min(end, 1 << 20)


def lying(monkeypatch, *names, error=None, **changes):
    monkeypatch.setattr(remote, "_filesystem", lambda url, parts: (Lying(names, error), "d"))
    return source("memory://d", **changes)


def test_names_outside_the_folder_are_rejections(monkeypatch):
    found = lying(monkeypatch, "d/a.txt", "d/../../etc/passwd", "other/b.txt", "d//c.txt")
    assert sorted(getattr(item, "code", "document") for item in found.documents()) == ["E_LIMIT", "E_PATH", "E_PATH", "E_PATH"]


def test_an_endless_stream_stops_at_the_limit(monkeypatch):
    (item,) = lying(monkeypatch, "d/a.txt", max_file_bytes=500).documents()
    assert (item.code, item.size_bytes) == ("E_LIMIT", 501)


def test_label_and_owner_of_an_object(monkeypatch):
    monkeypatch.setattr(Lying, "cat_file", lambda *args, **kwargs: b"x")
    (document,) = lying(monkeypatch, "d/a.txt", acl_label="team").documents()
    assert (document.acl_label, document.owner[:6]) == ("hr", "owner_")


@pytest.mark.parametrize(
    ("error", "code"),
    [(PermissionError("hunter2"), "E_IO"), (OSError("hunter2"), "E_SERVER_AWAY"), (KeyError("hunter2"), "E_SERVER_AWAY")],
)
def test_a_store_that_fails_is_an_error_without_its_words(monkeypatch, error, code):
    with pytest.raises(SourceError) as caught:
        list(lying(monkeypatch, error=error).documents())
    assert caught.value.code == code
    assert "hunter2" not in caught.value.explain()
    assert caught.value.__suppress_context__


def test_folders_without_end(monkeypatch):
    endless = lambda self, path, detail: [{"name": f"{path}/d", "type": "directory", "size": 0}]  # noqa: E731
    monkeypatch.setattr(Lying, "ls", endless)
    with pytest.raises(SourceError) as caught:
        list(lying(monkeypatch).documents())
    assert caught.value.code == "E_LIMIT_DEPTH"


# --- a real S3-compatible server --------------------------------------------------------------------------------------


@pytest.fixture
def s3(monkeypatch):
    """A bucket on a server of this machine."""
    server_of = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    enable_socket()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    settings = {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1", "ENDPOINT_URL": url}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="docs")
    yield client
    client.close()
    server.stop()


def test_a_bucket(s3):
    for name in ("legal/b.txt", "legal/a/c.txt", "legal/", "legal2/x.txt", "legal/empty.txt", "legal/\u202eodd.txt"):
        s3.put_object(Bucket="docs", Key=name, Body=b"" if name.endswith(("/", "empty.txt")) else name.encode())
    found = source("s3://docs/legal")
    items = list(found.documents())
    assert outcome(items) == {"a/c.txt": "document", "b.txt": "document", "empty.txt": "E_EMPTY", "_odd.txt": "document"}
    documents = [item for item in items if isinstance(item, Document)]
    assert found.read(documents[0]) == b"legal/a/c.txt"
    assert "127.0.0.1" in found.hosts()
    s3.put_object(Bucket="docs", Key="legal/a/c.txt", Body=b"LEGAL/a/c.txt")
    with pytest.raises(SourceError) as caught:
        found.read(documents[0])
    assert caught.value.code == "E_IO"


@pytest.mark.slow
def test_a_bucket_with_more_objects_than_one_answer_holds(s3):
    for i in range(1005):
        s3.put_object(Bucket="docs", Key=f"many/{i:04}.txt", Body=b"%d" % i)
    documents = list(source("s3://docs/many", max_documents=2000).documents())
    assert [d.uri for d in documents] == [f"{i:04}.txt" for i in range(1005)]


def test_a_bucket_that_is_not_there(s3):
    with pytest.raises(SourceError) as caught:
        list(source("s3://nobody/x").documents())
    assert caught.value.code == "E_NO_CORPUS"


# --- a web server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def web(monkeypatch):
    """A web server of this machine that passes for a public one."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    pytest.importorskip("aiohttp")
    enable_socket()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved.txt":
                self.send_response(302)
                self.send_header("Location", "/a.txt")
                self.end_headers()
                return
            body = b"x" * 1000
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(remote, "public_addresses", lambda host, port: ("127.0.0.1",))
    # a name that resolves to nothing: only the pinned address can lead there
    yield f"http://docs.invalid:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_file_is_read_from_the_address_that_was_checked(web):
    found = source(f"{web}/a.txt")
    (document,) = found.documents()
    assert (document.uri, found.read(document)) == ("a.txt", b"x" * 1000)
    assert found.hosts() == ("docs.invalid",)


def test_a_redirect_is_not_followed(web):
    with pytest.raises(SourceError) as caught:
        list(source(f"{web}/moved.txt").documents())
    assert caught.value.code == "E_NO_CORPUS"
