import os
from pathlib import Path

import pytest

from spice_enterprise.corpus.sources import FolderSource
from spice_enterprise.errors import SourceError
from spice_enterprise.records import Document, Rejection

KEY = b"k" * 32


def source(root, **changes):
    settings = {"key": KEY, "max_file_bytes": 1000, "max_documents": 10, "scrub_name": lambda name: name}
    return FolderSource(root, **(settings | changes))


def test_lists_files_in_path_order_with_keyed_digests(tmp_path):
    for name in ("b.txt", "a/z.md", "a/c.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    documents = list(source(tmp_path).documents())
    assert [d.uri for d in documents] == ["a/c.pdf", "a/z.md", "b.txt"]
    assert [d.media_type for d in documents] == ["application/pdf", "text/markdown", "text/plain"]
    other = list(source(tmp_path, key=b"x" * 32).documents())
    assert all(a.keyed_digest != b.keyed_digest for a, b in zip(documents, other, strict=True))


def test_what_may_not_be_read_is_a_rejection_with_its_code(tmp_path):
    (tmp_path / "good.txt").write_text("text")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "large.txt").write_bytes(b"x" * 1001)
    (tmp_path / "link.txt").symlink_to(tmp_path / "good.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".hidden").write_text("not a document")
    found = {item.uri: getattr(item, "code", "document") for item in source(tmp_path).documents()}
    assert found == {
        "empty.txt": "E_EMPTY", "good.txt": "document", "large.txt": "E_LIMIT", "link.txt": "E_PATH", "loop": "E_PATH",
        "pipe": "E_PATH",
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_a_rejection(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    (item,) = source(tmp_path).documents()
    assert isinstance(item, Rejection)
    assert item.code == "E_IO"


def test_the_name_is_scrubbed_and_never_printed(tmp_path):
    (tmp_path / "weiss.txt").write_text("x")
    (document,) = source(tmp_path, scrub_name=lambda name: name.replace("weiss", "[PERSON_aaaaaa]")).documents()
    assert document.uri == "[PERSON_aaaaaa].txt"
    assert "PERSON" not in repr(document)


def test_control_and_direction_characters_leave_the_name(tmp_path):
    (tmp_path / "a\u202etxt.\nexe").write_text("x")
    (document,) = source(tmp_path).documents()
    assert document.uri == "a_txt._exe"


def test_read_returns_the_listed_bytes_and_refuses_changed_ones(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("first")
    folder = source(tmp_path)
    (document,) = folder.documents()
    assert folder.read(document) == b"first"
    path.write_text("other")
    with pytest.raises(SourceError, match="changed") as caught:
        folder.read(document)
    assert caught.value.code == "E_IO"
    path.unlink()
    with pytest.raises(SourceError):
        folder.read(document)


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
    with pytest.raises(SourceError, match="3 files, allowed are 2") as many:
        list(source(tmp_path, max_documents=2).documents())
    codes = [e.value.code for e in (missing, empty, many)]
    assert codes == ["E_NO_CORPUS", "E_EMPTY_CORPUS", "E_LIMIT"]
    assert all(e.value.exit_status() == 2 for e in (missing, empty, many))
