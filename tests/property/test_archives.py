"""Whatever bytes arrive as an archive: members with safe names within the limits, or one of the known errors."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from email.message import EmailMessage

from hypothesis import given, settings
from hypothesis import strategies as st

from spice_enterprise.corpus.archives import MAX_EXPANDED_BYTES, expand
from spice_enterprise.corpus.listing import printable
from spice_enterprise.errors import ParseError


def _zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "alpha " * 40)
        archive.writestr("b/c.txt", "beta")
    return buffer.getvalue()


def _tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("b/c.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"beta"))
    return buffer.getvalue()


def _mail():
    message = EmailMessage()
    message.set_content("text")
    message.add_attachment(b"data", maintype="application", subtype="pdf", filename="a.pdf")
    return message.as_bytes()


SEEDS = {
    ".zip": _zip(), ".tar": _tar(), ".tgz": gzip.compress(_tar()), ".gz": gzip.compress(b"x" * 99),
    ".bz2": bz2.compress(b"x" * 99), ".xz": lzma.compress(b"x" * 99), ".eml": _mail(),
}  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(suffix=st.sampled_from(sorted(SEEDS)), data=st.data())
def test_changed_bytes_end_in_members_or_a_known_error(suffix, data):
    raw = bytearray(SEEDS[suffix])
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        members = expand(bytes(raw), suffix)
    except ParseError:
        return
    assert sum(len(member.data) for member in members) <= MAX_EXPANDED_BYTES
    for member in members:
        assert not member.name.startswith("/")
        assert "\\" not in member.name
        assert ".." not in member.name.split("/")


@given(st.text(st.characters(codec=None), max_size=300))
def test_a_printable_name_is_printable_and_stays_so(name):
    clean = printable(name)
    assert clean.isprintable()
    assert len(clean) <= 240
    assert clean
    clean.encode("utf-8")
    assert printable(clean) == clean


@given(st.lists(st.sampled_from(["con", "CON.txt", "nul", "a", "com1.tar.gz", "console", "lpt9"]), min_size=1, max_size=9))
def test_device_names_are_marked(steps):
    reserved = ("con", "nul", "com1", "lpt9")
    assert not any(step.split(".")[0].lower() in reserved for step in printable("/".join(steps)).split("/"))
