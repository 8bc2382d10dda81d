import base64
import gzip
import hashlib
import hmac
import os
import stat
import sys
from pathlib import Path

import pytest

from spice_enterprise.corpus import archives, sources
from spice_enterprise.corpus.listing import Listing
from spice_enterprise.corpus.sources import FolderSource, Item, IterableSource
from spice_enterprise.errors import ParseError, SourceError
from spice_enterprise.records import Document, Rejection
from tests.unit.corpus.test_archives import mail, make_tar, make_zip

KEY = b"k" * 32


class Closed:
    """Why an archive gave nothing, as the sandbox says it."""

    def __init__(self, code, reason):
        self.code, self.reason = code, reason


def expand_here(data, suffix):
    try:
        return archives.expand(data, suffix)
    except ParseError as error:
        return Closed(error.code, error.message)


def listing(**changes):
    settings = {"key": KEY, "max_file_bytes": 100_000, "max_documents": 10, "scrub_name": lambda name: name}
    return Listing(**(settings | {"expand": expand_here} | changes))


def source(root, **changes):
    return FolderSource(root, listing(**changes))


def outcome(items):
    return {item.uri: getattr(item, "code", "document") for item in items}


def items_of(*files, **changes):
    return IterableSource([Item(name=name, data=data) for name, data in files], listing(**changes))


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_lists_files_in_path_order_with_keyed_digests(tmp_path):
    for name in ("b.txt", "a/z.md", "a/c.pdf", "a-1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    documents = list(source(tmp_path).documents())
    assert [d.uri for d in documents] == ["a/c.pdf", "a/z.md", "a-1.txt", "b.txt"]
    assert [d.media_type for d in documents] == ["application/pdf", "text/markdown", "text/plain", "text/plain"]
    other = list(source(tmp_path, key=b"x" * 32).documents())
    assert all(a.keyed_digest != b.keyed_digest for a, b in zip(documents, other, strict=True))


def test_what_may_not_be_read_is_a_rejection_with_its_code(tmp_path):
    (tmp_path / "good.txt").write_text("text")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "large.txt").write_bytes(b"x" * 100_001)
    (tmp_path / "link.txt").symlink_to(tmp_path / "good.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".hidden").write_text("not a document")
    assert outcome(source(tmp_path).documents()) == {
        "empty.txt": "E_EMPTY", "gone.txt": "E_PATH", "good.txt": "document", "large.txt": "E_LIMIT", "link.txt": "E_PATH",
        "loop": "E_PATH", "pipe": "E_PATH",
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_and_folders_are_rejections(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    assert outcome(source(tmp_path).documents()) == {"a.txt": "E_IO", "closed": "E_IO"}


def test_a_folder_that_cannot_be_listed_is_a_rejection(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.txt").write_text("x")
    plain = os.open

    def refusing(path, flags, *args, **kwargs):
        if path == "a" and flags & os.O_DIRECTORY:
            raise PermissionError
        return plain(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    assert outcome(source(tmp_path).documents()) == {"a": "E_IO", "b.txt": "document"}


def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.txt").write_text("not of the corpus")
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "root" / "inner" / "a.txt").write_text("x")
    folder = source(tmp_path / "root")
    (document,) = folder.documents()
    (tmp_path / "root" / "inner" / "a.txt").unlink()
    (tmp_path / "root" / "inner").rmdir()
    (tmp_path / "root" / "inner").symlink_to(tmp_path / "outside")
    with pytest.raises(SourceError) as caught:
        folder.read(document)
    assert caught.value.code == "E_IO"


def test_a_file_that_grows_while_it_is_read_is_a_rejection(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("x")
    plain = os.fdopen

    def growing(*args, **kwargs):
        with path.open("a") as file:
            file.write("more")
        return plain(*args, **kwargs)

    monkeypatch.setattr(sources.os, "fdopen", growing)
    (item,) = source(tmp_path).documents()
    assert (item.code, item.reason) == ("E_IO", "the file changed while it was read")


def test_the_name_is_scrubbed_and_never_printed(tmp_path):
    (tmp_path / "weiss.txt").write_text("x")
    (document,) = source(tmp_path, scrub_name=lambda name: name.replace("weiss", "[PERSON_aaaaaa]")).documents()
    assert document.uri == "[PERSON_aaaaaa].txt"
    assert "PERSON" not in repr(document)


def test_odd_names_are_made_plain_and_still_listed(tmp_path):
    names = ["a\u202etxt.\nexe", "CON", "nul.txt", "x" * 251 + ".md"]
    for name in names:
        (tmp_path / name).write_text("x")
    (tmp_path / os.fsdecode(b"bad\xff.txt")).write_text("x")
    found = [document.uri for document in source(tmp_path).documents()]
    assert found == ["_CON", "a_txt._exe", "bad_.txt", "_nul.txt", "x" * 237 + ".md"]


def test_access_label_and_owner_come_from_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_group", lambda number: "legal")
    monkeypatch.setattr(sources, "_user", lambda number: "invented")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0o640)
    (document,) = source(tmp_path).documents()
    assert document.acl_label == "posix:legal:0640"
    tag = hmac.new(KEY, b"owner|invented", hashlib.sha256).digest()
    assert document.owner == "owner_" + base64.b32encode(tag).decode().lower()[:8]
    assert "invented" not in repr(document) + document.owner
    (again,) = source(tmp_path, key=b"x" * 32, acl_label="board", scrub_name=str.upper).documents()
    assert (again.acl_label, again.owner != document.owner) == ("BOARD", True)


def test_a_group_of_one_and_unknown_ids_are_numbers(monkeypatch):
    monkeypatch.setattr(sources, "_is_user", lambda name: True)
    sources._group.cache_clear()
    assert sources._group(0) == "0"
    assert sources._group(4_000_000_000) == "4000000000"
    assert sources._user(4_000_000_000) == "4000000000"
    sources._group.cache_clear()


def test_read_returns_the_held_copy_and_refuses_changed_ones(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("first")
    (tmp_path / "b.txt").write_text("second")
    folder = source(tmp_path)
    walk = folder.documents()
    first = next(walk)
    path.write_text("other")
    assert folder.read(first) == b"first"
    second = next(walk)
    with pytest.raises(SourceError, match="changed") as caught:
        folder.read(first)
    assert caught.value.code == "E_IO"
    path.write_text("first")
    assert (folder.read(first), folder.read(second)) == (b"first", b"second")
    path.unlink()
    with pytest.raises(SourceError):
        folder.read(first)


def test_a_file_is_opened_once(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    opened = []
    plain = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **kw: opened.append(str(path)) or plain(path, *rest, **kw))
    folder = source(tmp_path)
    for document in folder.documents():
        folder.read(document)
    assert opened.count("a.txt") == 1


def test_read_refuses_what_was_never_listed(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    stranger = Document(uri="a.txt", media_type="text/plain", keyed_digest="0", size_bytes=1)
    with pytest.raises(SourceError):
        source(tmp_path).read(stranger)


@pytest.mark.parametrize("url", ["https://example.com/docs", "s3://bucket/docs", "file:///etc"])
def test_urls_are_refused(url):
    with pytest.raises(SourceError) as caught:
        source(Path(url))
    assert (caught.value.code, caught.value.exit_status()) == ("E_URL_DENIED", 2)


def test_missing_and_empty_and_overfull_folders_are_errors(tmp_path):
    with pytest.raises(SourceError) as missing:
        source(tmp_path / "nowhere")
    with pytest.raises(SourceError) as empty:
        list(source(tmp_path).documents())
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("x")
    with pytest.raises(SourceError, match="more than 2 documents") as many:
        next(source(tmp_path, max_documents=2).documents())
    codes = [e.value.code for e in (missing, empty, many)]
    assert codes == ["E_NO_CORPUS", "E_EMPTY_CORPUS", "E_LIMIT"]
    assert all(e.value.exit_status() == 2 for e in (missing, empty, many))


def test_a_source_holds_the_bytes_of_one_document(tmp_path):
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_bytes(os.urandom(50_000))
    folder = source(tmp_path, max_documents=100)
    for _ in folder.documents():
        assert sys.getsizeof(folder._held[1]) < 60_000
    assert folder._held is None


# --- archives ---------------------------------------------------------------------------------------------------------


def test_members_are_documents_of_their_own(tmp_path):
    (tmp_path / "a.zip").write_bytes(make_zip(("inner/b.pdf", "x"), ("c.txt", "y"), ("empty.txt", "")))
    (tmp_path / "d.md").write_text("z")
    folder = source(tmp_path)
    found = list(folder.documents())
    assert outcome(found) == {
        "a.zip!/inner/b.pdf": "document", "a.zip!/c.txt": "document", "a.zip!/empty.txt": "E_EMPTY", "d.md": "document",
    }  # fmt: skip
    documents = [item for item in found if isinstance(item, Document)]
    assert [d.source_kind for d in documents] == ["archive", "archive", "folder"]
    assert len({(d.acl_label, d.owner) for d in documents}) == 1
    assert [folder.read(d) for d in documents] == [b"x", b"y", b"z"]


def test_nested_archives_are_opened_level_by_level_and_not_for_ever():
    data = make_zip(("a.txt", "deep"))
    for _ in range(2):
        data = make_zip(("n.zip", data))
    found = items_of(("o.zip", data))
    (document,) = found.documents()
    assert (document.uri, found.read(document)) == ("o.zip!/n.zip!/n.zip!/a.txt", b"deep")
    for _ in range(4):
        data = make_zip(("n.zip", data), ("b.txt", "beside"))
    rejected = [item for item in items_of(("o.zip", data)).documents() if isinstance(item, Rejection)]
    assert [(r.uri, r.code) for r in rejected] == [("o.zip!/n.zip!/n.zip!/n.zip", "E_LIMIT_DEPTH")]


def test_all_levels_share_one_limit(monkeypatch):
    monkeypatch.setattr("spice_enterprise.corpus.listing.MAX_EXPANDED_BYTES", 70_000)
    inner = make_zip(("a.txt", os.urandom(15_000)))
    found = outcome(items_of(("o.zip", make_zip(("1.zip", inner), ("2.zip", inner), ("3.zip", inner)))).documents())
    assert found == {"o.zip!/1.zip!/a.txt": "document", "o.zip!/2.zip": "E_LIMIT_RATIO", "o.zip!/3.zip": "E_LIMIT_RATIO"}


def test_one_bad_archive_does_not_harm_the_others():
    found = items_of(
        ("bad.zip", make_zip(("../a.txt", "x"))), ("cut.tar", b"x"), ("good.tgz", gzip.compress(make_tar(("a.txt", b"x")))),
        ("lies.zip", b"%PDF-1.7"), ("notes.txt.gz", gzip.compress(b"x")),
    )  # fmt: skip
    assert outcome(found.documents()) == {
        "bad.zip": "E_PATH", "cut.tar": "E_TYPE_MISMATCH", "good.tgz!/a.txt": "document", "lies.zip": "E_TYPE_MISMATCH",
        "notes.txt.gz!/notes.txt": "document",
    }  # fmt: skip


def test_without_a_way_to_open_them_archives_are_unsupported():
    files = [("a.zip", make_zip(("a.txt", "x"))), ("m.eml", mail(("a.pdf", b"x")).as_bytes())]
    assert outcome(items_of(*files, expand=None).documents()) == {"a.zip": "E_UNSUPPORTED", "m.eml": "document"}


def test_a_mail_is_a_document_beside_its_attachments():
    found = items_of(("m.eml", mail(("../../a.pdf", b"x"), ("z.zip", make_zip(("b.txt", "y")))).as_bytes()))
    documents = list(found.documents())
    assert [(d.uri, d.source_kind) for d in documents] == [
        ("m.eml", "iterable"), ("m.eml!/a.pdf", "attachment"), ("m.eml!/z.zip!/b.txt", "archive"),
    ]  # fmt: skip
    assert [found.read(d)[:1] for d in documents[1:]] == [b"x", b"y"]


def test_too_many_documents_in_archives():
    data = make_zip(*((f"{i}.txt", "x") for i in range(11)))
    with pytest.raises(SourceError) as caught:
        list(items_of(("a.zip", data)).documents())
    assert caught.value.code == "E_LIMIT"


def test_names_in_archives_are_made_plain_and_scrubbed_too():
    data = make_zip(("weiss/\u202ecod.txt", "x"), ("n" * 300 + ".txt", "y"))
    found = items_of(("o.zip", data), scrub_name=lambda name: name.replace("weiss", "[PERSON_aaaaaa]"))
    assert [d.uri for d in found.documents()] == ["o.zip!/[PERSON_aaaaaa]/_cod.txt", "o.zip!/" + "n" * 236 + ".txt"]


# --- other loaders ----------------------------------------------------------------------------------------------------


def test_any_iterable_is_a_source():
    items = [Item(name="a.txt", data=b"x", acl_label="team", owner="invented"), Item(name="b.txt", data=b"y")]
    found = IterableSource(items, listing())
    a, b = found.documents()
    assert (a.uri, a.acl_label, a.owner[:6], b.owner, a.source_kind) == ("a.txt", "team", "owner_", "", "iterable")
    assert (found.read(a), found.read(b)) == (b"x", b"y")
    assert "invented" not in repr(items)


def test_a_generator_reads_what_it_just_gave():
    found = IterableSource((Item(name=f"{i}.txt", data=b"%d" % i) for i in range(3)), listing())
    seen = [(document, found.read(document)) for document in found.documents()]
    assert [data for _, data in seen] == [b"0", b"1", b"2"]
    with pytest.raises(SourceError):
        found.read(seen[0][0])


def test_links_and_modes_are_read_from_the_opened_file():
    assert sources.posix_label(os.stat_result((stat.S_IFREG | 0o604, 0, 0, 1, 0, 4_000_000_000, 0, 0, 0, 0))) == (
        "posix:4000000000:0604"
    )
