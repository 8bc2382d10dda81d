"""Checkpoints: the note format against a published vector, strict parsing, keys, the trust file."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spice_enterprise.audit import checkpoints
from spice_enterprise.audit.checkpoints import Head
from spice_enterprise.errors import IntegrityError, StoreError

KEY = bytes(range(32))
HEAD = Head(origin="spice.audit/test", size=5, root=bytes(32))
NOTE = checkpoints.sign(HEAD, KEY)

# The example of the Go package golang.org/x/mod/sumdb/note, which defined the format.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_published_note_verifies_under_its_published_key() -> None:
    name, key_id, encoded = GO_KEY.split("+", 2)
    algorithm, public = base64.b64decode(encoded)[:1], base64.b64decode(encoded)[1:]
    text, signatures = checkpoints.split_note(GO_NOTE.encode())
    assert algorithm == checkpoints.ED25519
    assert checkpoints.key_id(name, public).hex() == key_id
    assert checkpoints.verify(text, signatures, name, public)
    assert not checkpoints.verify(text + b"!", signatures, name, public)
    assert not checkpoints.verify(text, signatures, "PeterNeuman", public)


def test_a_checkpoint_is_exactly_this_text() -> None:
    lines = NOTE.decode().split("\n")
    assert lines[:4] == ["spice.audit/test", "5", base64.b64encode(bytes(32)).decode(), ""]
    assert lines[4].startswith("— spice.audit/test ")
    assert lines[5:] == [""]
    note = checkpoints.parse(NOTE)
    assert note.head == HEAD
    assert checkpoints.verify(note.text, note.signatures, HEAD.origin, checkpoints.public_key(KEY))
    assert not checkpoints.verify(note.text, note.signatures, HEAD.origin, checkpoints.public_key(bytes(32)))


def test_lines_of_other_signers_are_kept_and_passed_over() -> None:
    cosigned = NOTE + f"— witness.example/w1 {base64.b64encode(bytes(76)).decode()}\n".encode()
    note = checkpoints.parse(cosigned)
    assert [signature.name for signature in note.signatures] == ["spice.audit/test", "witness.example/w1"]
    assert checkpoints.verify(note.text, note.signatures, HEAD.origin, checkpoints.public_key(KEY))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n5\n", b"\n05\n"),
        (b"\n5\n", b"\n-5\n"),
        (b"\n5\n", b"\nfive\n"),
        (b"\n5\n", b"\n\n5\n"),
        (b"AAAA=\n", b"AAA=\n"),
        (b"AAAA=\n", b"AAAB=\n"),
        (b"\n\n", b"\n"),
        ("—".encode(), b"-"),
        (b"spice.audit/test\n", b"\xff\n"),
        (b"5\n", b""),
    ],
)
def test_anything_else_is_no_checkpoint(old: bytes, new: bytes) -> None:
    assert old in NOTE
    with pytest.raises(IntegrityError) as caught:
        checkpoints.parse(NOTE.replace(old, new, 1))
    assert caught.value.code == "E_CHECKPOINT"


@pytest.mark.parametrize("note", [b"", b"\n\n", b"a\n1\nAA==\n\n", NOTE[:-1], NOTE.replace(b" ", b"  "), b"x" * 70_000])
def test_rubbish_is_refused(note: bytes) -> None:
    with pytest.raises(IntegrityError):
        checkpoints.parse(note)


def test_a_name_that_could_not_be_read_back_is_not_signed() -> None:
    with pytest.raises(ValueError, match="origin"):
        checkpoints.sign(Head(origin="two words", size=1, root=bytes(32)), KEY)


def test_the_log_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "log.key"
    key = checkpoints.load_or_create_log_key(path)
    assert checkpoints.load_or_create_log_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    with pytest.raises(StoreError) as caught:
        checkpoints.load_or_create_log_key(path)
    assert caught.value.code == "E_KEY"


def now() -> datetime:
    return datetime(2026, 11, 21, tzinfo=UTC)


def test_the_trust_file_holds_the_public_key_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    checkpoints.write_trust_file(path, origin="o", key=KEY, clock=now, anchors=[(3, b"r" * 32)], policy_digests=["sha256:p"])
    assert json.loads(path.read_bytes()) == {
        "origin": "o",
        "log_keys": [
            {"key": checkpoints.public_key(KEY).hex(), "valid_from": "2026-11-21T00:00:00.000000Z", "valid_until": None}
        ],
        "people": [],
        "witnesses": [],
        "policy_digests": ["sha256:p"],
        "anchors": [{"size": 3, "root": base64.b64encode(b"r" * 32).decode()}],
    }
    before = path.read_bytes()
    checkpoints.write_trust_file(path, origin="o", key=bytes(32), clock=now)
    assert path.read_bytes() == before
    trust = checkpoints.load_trust(path)
    assert (trust.origin, trust.anchors, trust.policy_digests) == ("o", ((3, b"r" * 32),), ("sha256:p",))


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"log_keys": []},
        {"log_keys": [{"key": "ab", "valid_from": "", "valid_until": None}]},
        {"witnesses": [{"name": "w"}]},
        {"people": [{"name": "p"}]},
        {"anchors": [{"size": -1, "root": base64.b64encode(bytes(32)).decode()}]},
        {"anchors": [{"size": 1, "root": "AA=="}]},
        {"origin": None},
    ],
)
def test_a_trust_file_that_asks_for_more_than_is_checked_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "trust.json"
    checkpoints.write_trust_file(path, origin="o", key=KEY, clock=now)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}), encoding="utf-8")
    with pytest.raises(IntegrityError) as caught:
        checkpoints.load_trust(path)
    assert caught.value.code == "E_BUNDLE"
    assert "trust.json" in caught.value.message


def test_a_key_is_valid_within_its_window() -> None:
    key = checkpoints.LogKey(public=bytes(32), valid_from="2026-01-01", valid_until="2026-02-01")
    assert [key.is_valid_at(ts) for ts in ("2025-12-31", "2026-01-01", "2026-01-31", "2026-02-01")] == [False, True, True, False]
