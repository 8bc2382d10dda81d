"""The tree and the log for any input: proofs hold, nothing else does, and no changed byte goes unseen.

Rules quoted from RFC 6962, section 2.1, and from the design's "any changed byte of the log gives a finding".
"""

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from spice_enterprise.audit import checkpoints, log, records
from spice_enterprise.audit.verify import verify
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import AuditEvent

KEY = bytes(range(32))
ORIGIN = "spice.audit/property"
SIZES = st.integers(1, 70)


def leaves(count: int) -> list[bytes]:
    return [b"leaf %d" % number for number in range(count)]


def recursive_root(items: Sequence[bytes]) -> bytes:
    """The definition of RFC 6962, word for word: an independent implementation."""
    if not items:
        return hashlib.sha256().digest()
    if len(items) == 1:
        return hashlib.sha256(b"\x00" + items[0]).digest()
    k = 1
    while 2 * k < len(items):
        k *= 2
    return hashlib.sha256(b"\x01" + recursive_root(items[:k]) + recursive_root(items[k:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_the_incremental_root_is_the_recursive_one(items: list[bytes]) -> None:
    assert log.root(items) == recursive_root(items)


@given(SIZES, st.data())
def test_every_leaf_can_be_proven_and_no_other_in_its_place(size: int, data: st.DataObject) -> None:
    items = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    proof, head = log.inclusion_proof(items, index), log.root(items)
    assert log.verify_inclusion(items[index], index, size, proof, head)
    assert not log.verify_inclusion(b"other", index, size, proof, head)
    assert not log.verify_inclusion(items[index], index, size, [*proof, head], head)
    assert not log.verify_inclusion(items[index], index, size, proof[:-1], head) or size == 1
    for other in range(size):
        assert log.verify_inclusion(items[index], other, size, proof, head) == (other == index)


@given(SIZES, st.data())
def test_every_prefix_can_be_proven_and_no_other(size: int, data: st.DataObject) -> None:
    items = leaves(size)
    old_size = data.draw(st.integers(1, size))
    old, new = (old_size, log.root(items[:old_size])), (size, log.root(items))
    proof = log.consistency_proof(items, old_size)
    assert log.verify_consistency(old, new, proof)
    assert not log.verify_consistency((old_size, log.root([*items[: old_size - 1], b"other"])), new, proof)
    assert not log.verify_consistency(old, (size, log.root([*items[:-1], b"other"])), proof)
    assert not log.verify_consistency(old, new, [*proof, new[1]])


NUMBERS = st.floats() | st.integers(-(2**70), 2**70) | st.booleans() | st.none()
WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9_.:/+=-]{0,30}", fullmatch=True)
KEYS = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True)
POSITION = records.Position(log=ORIGIN, seq=0, prev=records.EMPTY_LEAF, ts="2026-11-21T06:00:00.000000Z", actor="service:p")


@given(st.dictionaries(KEYS, NUMBERS | WORDS, max_size=6))
def test_any_record_reads_back_and_is_canonical(data: dict[str, str | float | None]) -> None:
    """The quick check for canonical bytes agrees with the RFC 8785 library on every record we can write."""
    line = records.encode(AuditEvent(event="guardrail.step", run="job", data=tuple(data.items())), POSITION)
    record = records.parse(line)
    assert set(record.data) == set(data)
    for key, value in data.items():
        if isinstance(value, float):
            assert repr(record.data[key]) == repr(value) or record.data[key] == value
        elif isinstance(value, (str, bool)) or value is None:
            assert record.data[key] is value or record.data[key] == value


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["repr", "%e", "%.17g", "%f"]))
def test_one_number_has_one_spelling(value: float, spelling: str) -> None:
    token = repr(value) if spelling == "repr" else spelling % value
    line = records.encode(AuditEvent(event="guardrail.step", run="job", data=(("x", 0.5),)), POSITION)
    try:
        records.parse(line.replace(b":0.5", b":" + token.encode()))
        is_read = True
    except IntegrityError:
        is_read = False
    assert is_read == (token.encode() == rfc8785.dumps(float(token)))


def a_log(folder: Path) -> list[Path]:
    """Write a short true log and return its files."""
    now = datetime(2026, 11, 21, tzinfo=UTC)

    def clock() -> datetime:
        nonlocal now
        now += timedelta(seconds=1)
        return now

    checkpoints.write_trust_file(folder / "trust.json", origin=ORIGIN, key=KEY, clock=clock)
    trail = log.TransparencyLog(folder / "audit", origin=ORIGIN, key=KEY, actor="service:p", clock=clock)
    for step in range(3):
        trail.append(AuditEvent(event="guardrail.step", run="job", data=(("step", step), ("kl", 1.5e-7 * step))))
    trail.append(AuditEvent(event="run.ended", run="job"))
    return [folder / "audit" / "records.jsonl", folder / "audit" / "checkpoints" / "5.note"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_byte_goes_unseen(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = data.draw(st.sampled_from(a_log(Path(name))))
        assert verify(name, Path(name) / "trust.json") == []
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        assert verify(name, Path(name) / "trust.json") != []


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_cut_goes_unseen(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = data.draw(st.sampled_from(a_log(Path(name))))
        raw = path.read_bytes()
        path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
        assert verify(name, Path(name) / "trust.json") != []
