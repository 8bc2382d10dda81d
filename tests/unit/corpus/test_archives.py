import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
from email.message import EmailMessage

import pytest

from spice_enterprise.corpus import archives
from spice_enterprise.corpus.archives import archive_suffix, expand
from spice_enterprise.corpus.attachments import may_carry
from spice_enterprise.errors import ParseError


def make_zip(*entries, method=zipfile.ZIP_DEFLATED):
    """Return a zip of (name or ZipInfo, content) pairs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def make_tar(*entries, mode="w"):
    """Return a tar of (name, content) pairs and ready `TarInfo`s."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1])
            archive.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def tar_entry(kind, name="x", linkname="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def zip_entry(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def patched(data, offset, format_, value):
    """Return `data` with a number overwritten."""
    changed = bytearray(data)
    struct.pack_into(format_, changed, offset, value)
    return bytes(changed)


def code_of(data, suffix):
    with pytest.raises(ParseError) as caught:
        expand(data, suffix)
    return caught.value.code


CONTENT = [("a.txt", b"alpha"), ("inner/b.md", b"beta" * 100)]


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".zip", make_zip(*CONTENT)),
        (".ZIP", make_zip(*CONTENT, method=zipfile.ZIP_STORED)),
        (".zip", make_zip(*CONTENT, method=zipfile.ZIP_BZIP2)),
        (".tar", make_tar(*CONTENT)),
        (".tar.gz", make_tar(*CONTENT, mode="w:gz")),
        (".tgz", make_tar(*CONTENT, mode="w:gz")),
        (".tar.bz2", make_tar(*CONTENT, mode="w:bz2")),
        (".tar.xz", make_tar(*CONTENT, mode="w:xz")),
    ],
)
def test_members_come_out_in_order(suffix, data):
    assert [(m.name, m.data) for m in expand(data, suffix)] == CONTENT


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_one_compressed_file_and_two_streams_in_a_row(suffix, pack):
    assert expand(pack(b"one") + pack(b"two"), suffix)[0].data == b"onetwo"


def test_folders_dotfiles_and_resource_forks_are_passed_over():
    data = make_zip(("d/", ""), ("d/.hidden", "x"), ("__MACOSX/d/a.txt", "x"), ("./d/a.txt", "kept"))
    assert [(m.name, m.data) for m in expand(data, ".zip")] == [("d/a.txt", b"kept")]
    assert [m.name for m in expand(make_tar(tar_entry(tarfile.DIRTYPE, "d"), ("./d/a.txt", b"x")), ".tar")] == ["d/a.txt"]


@pytest.mark.parametrize("name", ["../a.txt", "x/../../a.txt", "/etc/a.txt", "..\\a.txt", "C:/a.txt", "c:a.txt", "x\\a.txt"])
def test_names_that_leave_the_folder(name):
    assert code_of(make_zip((name, "x")), ".zip") == "E_PATH"
    assert code_of(make_tar((name, b"x")), ".tar") == "E_PATH"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tar(kind):
    assert code_of(make_tar(("a.txt", b"x"), tar_entry(kind)), ".tar") == "E_PATH"


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600, stat.S_IFIFO | 0o600])
def test_links_and_devices_in_zip(mode):
    assert code_of(make_zip((zip_entry("a.txt", mode), "/etc/passwd")), ".zip") == "E_PATH"


def test_duplicate_names():
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = make_zip(("a.txt", "x"), ("a.txt", "y"))
    assert code_of(data, ".zip") == "E_PARSE"
    assert code_of(make_tar(("a.txt", b"x"), ("./a.txt", b"y")), ".tar") == "E_PARSE"


def test_encrypted_entries():
    data = make_zip(("a.txt", "x"))
    both = patched(patched(data, 6, "<H", 1), data.index(b"PK\x01\x02") + 8, "<H", 1)
    assert code_of(both, ".zip") == "E_ENCRYPTED"


@pytest.mark.parametrize(
    ("field", "format_", "value"), [(6, "<H", 0x800), (8, "<H", 0), (14, "<I", 7), (18, "<I", 3), (22, "<I", 9), (30, "<B", 0x62)]
)
def test_a_local_header_that_contradicts_the_directory(field, format_, value):
    assert code_of(patched(make_zip(("a.txt", "x" * 50)), field, format_, value), ".zip") == "E_PARSE"


def test_declared_sizes_are_not_believed():
    data = make_zip(("a.txt", "x" * 50))
    directory = data.index(b"PK\x01\x02")
    for size in (4_000_000_000, 10):
        assert code_of(patched(patched(data, 22, "<I", size), directory + 24, "<I", size), ".zip") == "E_PARSE"
    assert code_of(patched(data, directory + 24, "<I", 0xFFFFFFFF), ".zip") == "E_PARSE"


def test_overlapping_entries():
    inner = make_zip(("b.txt", "y" * 50), method=zipfile.ZIP_STORED)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.txt", inner[: inner.index(b"PK\x01\x02")])
        (within,) = zipfile.ZipFile(io.BytesIO(inner)).infolist()
        within.header_offset = 30 + len("a.txt")
        archive.filelist.append(within)
    assert code_of(buffer.getvalue(), ".zip") == "E_PARSE"


def test_damaged_and_truncated_archives():
    good = make_zip(*CONTENT)
    assert code_of(good[:-30], ".zip") == "E_PARSE"
    assert code_of(zipfile_end(), ".zip") == "E_PARSE"
    assert code_of(good[:40] + b"\xff\xff" + good[42:], ".zip") == "E_PARSE"
    assert code_of(gzip.compress(b"x" * 9000)[:-9], ".gz") == "E_PARSE"
    assert code_of(lzma.compress(b"x" * 9000)[:-9], ".xz") == "E_PARSE"
    assert code_of(make_tar(("a.txt", b"x" * 5000))[:2048], ".tar") == "E_PARSE"


def zipfile_end():
    return b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".gz", ".bz2", ".xz", ".tar.xz"])
def test_content_and_suffix_must_agree(suffix):
    assert code_of(b"%PDF-1.7 and more" + bytes(600), suffix) == "E_TYPE_MISMATCH"
    assert code_of(b"", suffix) == "E_EMPTY"


def test_an_office_file_is_no_archive():
    data = make_zip(("[Content_Types].xml", "<x/>"), ("word/document.xml", "<x/>"), ("docProps/core.xml", "<x/>"))
    assert code_of(data, ".zip") == "E_TYPE_MISMATCH"


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".tar.gz", gzip.compress)]
)
def test_a_bomb_stops_at_the_limit(suffix, pack, monkeypatch):
    monkeypatch.setattr(archives, "MAX_EXPANDED_BYTES", 3 << 20)
    read = []
    monkeypatch.setattr(archives, "_PIECE", 1 << 20)
    plain = archives._read_up_to
    monkeypatch.setattr(archives, "_read_up_to", lambda stream, allowed: read.append(allowed) or plain(stream, allowed))
    assert code_of(pack(bytes(20 << 20)), suffix) == "E_LIMIT_RATIO"
    assert read[0] <= 3 << 20


def test_ratio_of_an_entry_and_of_all_together():
    assert code_of(make_zip(("a.txt", bytes(20 << 20))), ".zip") == "E_LIMIT_RATIO"
    assert expand(make_zip(("a.txt", bytes(1 << 20))), ".zip")[0].data == bytes(1 << 20)
    many = make_zip(*((f"{i}.txt", bytes(1 << 20)) for i in range(8)))
    assert code_of(many, ".zip") == "E_LIMIT_RATIO"


def test_too_many_entries():
    assert code_of(make_zip(*((f"{i}", "") for i in range(2001)), method=zipfile.ZIP_STORED), ".zip") == "E_LIMIT_ENTRIES"
    assert code_of(make_tar(*((f"{i}", b"") for i in range(2001))), ".tar") == "E_LIMIT_ENTRIES"


def test_unknown_suffixes_and_methods():
    assert code_of(b"7z", ".7z") == "E_UNSUPPORTED"
    assert code_of(make_zip(("a.txt", "x"), method=zipfile.ZIP_LZMA), ".zip") == "E_UNSUPPORTED"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.tar.gz", ".tar.gz"), ("A.TGZ", ".tgz"), ("b.txt.gz", ".gz"), ("m.EML", ".eml"), ("r.docx", None), ("tar", None)],
)
def test_the_suffix_says_what_is_opened(name, suffix):
    assert archive_suffix(name) == suffix


# --- mail -------------------------------------------------------------------------------------------------------------


def mail(*attachments):
    message = EmailMessage()
    message["Subject"] = "invented"
    message.set_content("The text of the mail.")
    for name, data in attachments:
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return message


def test_attachments_get_plain_and_different_names():
    names = ["../../etc/x.pdf", "C:\\tmp\\x.pdf", "x.pdf", "no suffix", "no suffix", ".."]
    found = expand(mail(*((name, name.encode()) for name in names)).as_bytes(), ".eml")
    assert [m.name for m in found] == ["x.pdf", "x 2.pdf", "x 3.pdf", "no suffix", "no suffix 2", "attachment"]
    assert [m.data for m in found] == [name.encode() for name in names]


def test_an_attached_mail_is_one_file_with_its_own_attachments():
    outer = mail()
    outer.add_attachment(mail(("a.txt", b"deep")))
    (inner,) = expand(outer.as_bytes(), ".eml")
    assert inner.name == "mail.eml"
    assert [(m.name, m.data) for m in expand(inner.data, ".eml")] == [("a.txt", b"deep")]


def test_text_pictures_in_the_text_and_signatures_are_no_attachments():
    message = mail()
    message.add_alternative("<p>The text</p>", subtype="html")
    message.get_payload()[1].add_related(b"\x89PNG", maintype="image", subtype="png", cid="<logo>", filename="logo.png")
    message.add_attachment(b"0", maintype="application", subtype="pgp-signature", filename="s.asc")
    assert expand(message.as_bytes(), ".eml") == []


def test_a_mail_that_is_nothing_but_a_file():
    message = EmailMessage()
    message.set_content(b"%PDF", maintype="application", subtype="pdf", filename="scan.pdf", disposition="attachment")
    assert [m.name for m in expand(message.as_bytes(), ".eml")] == ["scan.pdf"]


def test_mails_nested_without_end():
    assert code_of(b"Content-Type: multipart/mixed; boundary=x\n\n--x\n" * 600, ".eml") == "E_LIMIT_DEPTH"
    assert code_of(b"Content-Type: message/rfc822\n\n" * 5000, ".eml") == "E_LIMIT"


def test_a_mail_that_shows_no_file_has_none():
    plain = mail()
    plain.add_alternative('<p class="name">The text</p>', subtype="html")
    assert not may_carry(plain.as_bytes())
    assert expand(plain.as_bytes(), ".eml") == []
    outer = mail()
    outer.add_attachment(mail())
    named = b'Content-Type: multipart/mixed; boundary="x"\n\n--x\nContent-Type: application/pdf;\n NAME*0="a.pdf"\n\nx\n--x--\n'
    for data in (mail(("a.txt", b"x")).as_bytes(), outer.as_bytes(), named):
        assert may_carry(data)
        assert len(expand(data, ".eml")) == 1


def test_what_is_no_mail_has_no_attachments():
    assert expand(b"\x89PNG" + bytes(100), ".eml") == []
    assert expand(b"no ole", ".msg") == []
    assert code_of(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), ".msg") == "E_PARSE"


def test_outlook_attachments(shared_data):
    path = shared_data / "office_samples" / "unstructured-fake-email-attachment.msg"
    if not path.exists():
        pytest.skip("no development data here")
    assert [m.name for m in expand(path.read_bytes(), ".msg")] == ["fake-attachment.txt"]
