"""The record: canonical, closed, without text; read back strictly."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from spice_enterprise.audit import records
from spice_enterprise.errors import IntegrityError, StoreError
from spice_enterprise.records import AuditEvent, NamedDigest

CANARY = "CANARY Jane Doe lives here"
POSITION = records.Position(
    log="spice.audit/test", seq=7, prev="sha256:" + "0" * 64, ts="2026-11-21T06:00:00.123456Z", actor="service:test"
)
ADAPTER = NamedDigest(role="adapter", name="adapter_1", digest="sha256:" + "a" * 64)


def event(*data: tuple[str, object], name: str = "guardrail.step", **more: object) -> AuditEvent:
    return AuditEvent(event=name, run="job", data=tuple(data), **more)


def test_a_record_is_exactly_these_bytes() -> None:
    line = records.encode(event(("loss", 1.5e-7), ("kl", math.nan), ("ok", True), subject=(ADAPTER,)), POSITION)
    assert line == (
        b'{"actor":{"auth":"key","id":"service:test","type":"service"},"data":{"kl":{"$num":"nan"},"loss":1.5e-7,"ok":true},'
        b'"event":"guardrail.step","inputs":[],"log":"spice.audit/test","prev":"sha256:' + b"0" * 64 + b'",'
        b'"run":{"experiment_id":null,"run_id":"job","tracking":null},"seq":7,'
        b'"subject":[{"digest":{"sha256":"' + b"a" * 64 + b'"},"name":"adapter/adapter_1"}],'
        b'"ts":"2026-11-21T06:00:00.123456Z","v":1}'
    )


def test_a_record_comes_back_as_it_went() -> None:
    values = (("n", 2**60), ("inf", -math.inf), ("none", None), ("id", "gate_1"), ("big", 1e20), ("tiny", 3.25e-9), ("x", 2.0))
    base = NamedDigest(role="base", name="smol.gguf", digest="b" * 64)
    record = records.parse(records.encode(event(*values, subject=(ADAPTER,), inputs=(base,)), POSITION))
    assert record.data == {"n": str(2**60), "inf": -math.inf, "none": None, "id": "gate_1", "big": 1e20, "tiny": 3.25e-9, "x": 2}
    assert (record.seq, record.run, record.actor, record.subject) == (7, "job", "service:test", (ADAPTER,))
    assert record.inputs == (NamedDigest(role="base", name="smol.gguf", digest="sha256:" + "b" * 64),)
    assert {"adapter_1", "smol.gguf", "gate_1"} <= record.names()


@pytest.mark.parametrize(
    "value",
    [
        CANARY,
        "two words",
        "line\nbreak",
        "x" * 201,
        "jane@example.com",
        "555-123-4567",
        "123-45-6789",
        "+1555",
        "é",
        "4111111111111111",
    ],
)
def test_text_may_not_enter_the_data(value: str) -> None:
    with pytest.raises(StoreError) as caught:
        records.encode(event(("note", value)), POSITION)
    assert caught.value.code == "E_AUDIT_TEXT"
    assert caught.value.message == "data.note: text may not enter the audit log"
    assert value not in caught.value.explain()


@pytest.mark.parametrize(
    "value",
    ["", "PASS", "adapter_1", "sha256:" + "a" * 64, "f" * 64, "2026-11-21", "2026-11-21T06:00:00Z", "line@0123456789abcdef"],
)
def test_ids_digests_codes_and_moments_may(value: str) -> None:
    assert records.parse(records.encode(event(("word", value)), POSITION)).data == {"word": value}


def test_text_may_not_enter_by_a_name_a_key_or_a_run() -> None:
    named = NamedDigest(role="base", name=CANARY, digest="a" * 64)
    for bad in (
        event(inputs=(named,)),
        event(subject=(named,)),
        event((CANARY, 1)),
        event(("k", 1), ("k", 2)),
        AuditEvent(event="heartbeat", run=CANARY),
    ):
        with pytest.raises(StoreError) as caught:
            records.encode(bad, POSITION)
        assert caught.value.code == "E_AUDIT_TEXT"
        assert "CANARY" not in caught.value.explain()


def test_other_types_and_wrong_digests_are_refused() -> None:
    with pytest.raises(StoreError, match=r"data\.x"):
        records.encode(event(("x", ["a"])), POSITION)
    with pytest.raises(StoreError) as caught:
        records.encode(event(subject=(NamedDigest(role="adapter", name="a", digest="md5:1"),)), POSITION)
    assert caught.value.code == "E_AUDIT_DIGEST"


def test_integers_beyond_the_safe_ones_become_strings() -> None:
    values = {"a": 2**53 - 1, "b": 2**53, "c": 1 - 2**53, "d": -(2**53)}
    record = records.parse(records.encode(event(*values.items()), POSITION))
    assert record.data == {"a": 2**53 - 1, "b": str(2**53), "c": 1 - 2**53, "d": str(-(2**53))}


def test_the_set_of_events_is_closed() -> None:
    with pytest.raises(StoreError) as caught:
        records.encode(event(name="something.else"), POSITION)
    assert caught.value.code == "E_AUDIT_EVENT"


def test_a_service_cannot_log_a_decision_of_a_person() -> None:
    with pytest.raises(StoreError) as caught:
        records.encode(event(name="approval.granted"), POSITION)
    assert caught.value.code == "E_AUDIT_SIGNATURE"
    assert "approval.granted" in caught.value.message


def test_a_signed_record_of_a_person_can_be_read() -> None:
    raw = json.loads(records.encode(event(), POSITION))
    signed = {**raw, "event": "approval.granted", "sig": {"alg": "ed25519", "key": "a" * 64, "value": "A" * 86 + "=="}}
    assert records.parse(dump(signed)).event == "approval.granted"
    del signed["sig"]
    with pytest.raises(IntegrityError, match="sig"):
        records.parse(dump(signed))


def dump(raw: object) -> bytes:
    return json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        (b'"v":1', b'"v":2', "v"),
        (b'"v":1', b'"v":true', "v"),
        (b'"seq":7', b'"seq":-7', "seq"),
        (b'"seq":7', b'"seq":7.0', "canonical"),
        (b'"seq":7', b'"seq":7,"seq":7', "canonical"),
        (b'"seq":7', b' "seq":7', "canonical"),
        (b'"loss":1.5e-7', b'"loss":1.5e-07', "canonical"),
        (b'"loss":1.5e-7', b'"loss":NaN', "canonical"),
        (b'"loss":1.5e-7', b'"loss":[1]', "data.loss"),
        (b'"loss":1.5e-7', b'"loss":"two words"', "data.loss"),
        (b'"event":"guardrail.step"', b'"event":"guardrail.stop"', "event"),
        (b'"event":"guardrail.step"', b'"event":["guardrail.step"]', "event"),
        (b'"inputs":[]', b'"inputs":{}', "inputs"),
        (b'"inputs":[],', b"", "record"),
        (b'"type":"service"', b'"type":"robot"', "actor"),
        (b'"tracking":null', b'"tracking":1', "run"),
        (b'"adapter/adapter_1"', b'"adapter"', "subject"),
        (b".123456Z", b"Z", "ts"),
    ],
)
def test_anything_else_is_no_record(old: bytes, new: bytes, part: str) -> None:
    line = records.encode(event(("loss", 1.5e-7), subject=(ADAPTER,)), POSITION)
    assert old in line
    with pytest.raises(IntegrityError) as caught:
        records.parse(line.replace(old, new))
    assert caught.value.code == "E_AUDIT_RECORD"
    assert part in caught.value.message


@pytest.mark.parametrize("line", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":1}'])
def test_rubbish_is_refused_without_a_crash(line: bytes) -> None:
    with pytest.raises(IntegrityError):
        records.parse(line)


def test_timestamps_are_utc_with_microseconds() -> None:
    moment = datetime(2026, 11, 21, 7, 0, tzinfo=timezone(timedelta(hours=1)))
    assert records.timestamp(moment) == "2026-11-21T06:00:00.000000Z"
    assert records.timestamp(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)) == "2026-01-02T03:04:05.000006Z"
    with pytest.raises(ValueError, match="time zone"):
        records.timestamp(datetime(2026, 1, 1))
