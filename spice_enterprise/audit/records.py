"""The audit log's record: one canonical JSON line per thing that happened.

In: an `AuditEvent`, and where it stands in the log (sequence number, the leaf before it, actor, time).
Out: RFC 8785 bytes; and back, strictly, as a `LogRecord`.
Refuses: event names outside the closed set, prose in any field, duplicate keys, any byte that is not canonical.
Not here: the tree and the file (`audit/log.py`), checking a whole log (`audit/verify.py`).

The log must outlive an erasure request, so nothing in it may be about a person: ids, digests, numbers, codes.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import rfc8785

from spice_enterprise.errors import IntegrityError, StoreError
from spice_enterprise.records import AuditEvent, NamedDigest, sha256_hex

VERSION: Final = 1
DECISIONS: Final = frozenset({"gate.decided", "promotion.executed", "rollback.executed", "run.ended"})
"""Events after which a checkpoint is signed at once."""
PERSONAL: Final = frozenset(
    {
        "approval.requested",
        "approval.granted",
        "approval.refused",
        "approval.revoked",
        "waiver.granted",
        "policy.changed",
        "key.rotated",
        "review.signed",
        "rollback.manual",
    }
)
"""Decisions of people: such a record must carry that person's signature."""
EVENTS: Final = (
    DECISIONS
    | PERSONAL
    | {
        "log.opened",
        "heartbeat",
        "corpus.snapshotted",
        "corpus.reviewed",
        "document.forgotten",
        "original.read",
        "redaction.applied",
        "run.started",
        "dataset.generated",
        "checkpoint.saved",
        "adapter.delivered",
        "guardrail.step",
        "guardrail.alarm",
        "adapter.registered",
        "eval.completed",
        "waiver.expired",
        "warmup.made",
        "promotion.requested",
        "deployment.confirmed",
        "adapter.retired",
        "erasure.requested",
        "erasure.resolved",
        "incident.opened",
        "incident.updated",
        "incident.closed",
        "export.made",
    }
)
EMPTY_LEAF: Final = "sha256:" + sha256_hex(b"")
"""`prev` of the first record: the root of the empty tree."""

MAX_TEXT: Final = 200
_MAX_SAFE_INT: Final = 2**53 - 1
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:/+=-]*(@[0-9a-f]{16})?")
"""An id, a code, a digest with its algorithm, a served name `<line>@<digest>`: never two words, never an e-mail address."""
_HEX: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{1,6})?Z)?")
_BIG_INT: Final = re.compile(r"-?[1-9][0-9]{15,199}")
_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_NAME: Final = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_.:/@+=-]{0,199}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LEAF: Final = re.compile(r"sha256:[0-9a-f]{64}")
_TS: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

Datum = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a record stands: which log, as which number, after which leaf, at what time, written by whom."""

    log: str
    seq: int
    prev: str
    ts: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One record read back. `line` is its canonical bytes without the newline; the tree hashes exactly these."""

    log: str
    seq: int
    prev: str
    ts: str
    event: str
    actor: str
    run: str | None
    subject: tuple[NamedDigest, ...]
    inputs: tuple[NamedDigest, ...]
    data: Mapping[str, Datum]
    line: bytes = field(repr=False)

    def names(self) -> set[str]:
        """Every id that this record mentions: names of things, and string values."""
        things = {item.name for item in (*self.subject, *self.inputs)}
        return things | {value for value in self.data.values() if isinstance(value, str)}


def position_of(record: LogRecord) -> Position:
    """Return where a record stands."""
    return Position(log=record.log, seq=record.seq, prev=record.prev, ts=record.ts, actor=record.actor)


def timestamp(at: datetime) -> str:
    """Return `at` in UTC with microseconds and `Z`. Raises `ValueError` for a time without a zone."""
    if at.tzinfo is None:
        raise ValueError("the clock must say its time zone")
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def is_safe_text(value: str) -> bool:
    """True for an id, a digest, a code, one plain word or a moment of time; False for anything that could be prose."""
    if len(value) > MAX_TEXT:
        return False
    return not value or any(p.fullmatch(value) for p in (_WORD, _HEX, _MOMENT))


def hex_of(digest: str) -> str:
    """Return the 64 hex characters of `sha256:<hex>` or of bare hex. Raises `StoreError` E_AUDIT_DIGEST."""
    bare = digest.removeprefix("sha256:")
    if not _SHA256.fullmatch(bare):
        raise StoreError("a digest in an audit event is not a SHA-256", code="E_AUDIT_DIGEST", hint="pass sha256:<64 hex>")
    return bare


def encode(event: AuditEvent, position: Position) -> bytes:
    """Return the canonical line of `event` at `position`, without the newline.

    Raises `StoreError`: E_AUDIT_EVENT for an unknown event, E_AUDIT_SIGNATURE for a decision only a person may record,
    E_AUDIT_TEXT where text could slip in, E_AUDIT_DIGEST for what is no digest.
    """
    _check_event(event.event)
    record: dict[str, Any] = {
        "v": VERSION,
        "log": position.log,
        "seq": position.seq,
        "prev": position.prev,
        "ts": position.ts,
        "event": event.event,
        "actor": {"id": position.actor, "type": "service", "auth": "key"},
        "run": {"tracking": None, "experiment_id": None, "run_id": _name(event.run, "run") if event.run else None},
        "subject": [_subject(item) for item in event.subject],
        "inputs": [_input(item) for item in event.inputs],
        "data": _data(event),
    }
    return rfc8785.dumps(record)


def _check_event(name: str) -> None:
    if name not in EVENTS:
        raise StoreError("unknown audit event", code="E_AUDIT_EVENT", hint="use a name from audit.records.EVENTS")
    if name in PERSONAL:
        raise StoreError(f"{name}: a person must sign this record", code="E_AUDIT_SIGNATURE", hint="a service cannot log it")


def _subject(item: NamedDigest) -> dict[str, Any]:
    name = f"{_role(item.role)}/{_name(item.name, 'subject')}"
    return {"name": name, "digest": {"sha256": hex_of(item.digest)}}


def _input(item: NamedDigest) -> dict[str, Any]:
    return {"role": _role(item.role), "name": _name(item.name, "inputs"), "digest": {"sha256": hex_of(item.digest)}}


def _role(role: str) -> str:
    return role if _ROLE.fullmatch(role) else _refuse("role")


def _name(name: str, where: str) -> str:
    return name if _NAME.fullmatch(name) else _refuse(where)


def _refuse(where: str) -> str:
    raise StoreError(
        f"{where}: text may not enter the audit log",
        code="E_AUDIT_TEXT",
        hint="log ids, digests, numbers and single code words only",
    )


def _data(event: AuditEvent) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for position, (key, value) in enumerate(event.data):
        if not _KEY.fullmatch(key) or key in data:
            _refuse(f"data key {position}")
        data[key] = _datum(value, f"data.{key}")
    return data


def _datum(value: object, where: str) -> Any:
    """Return `value` as JSON can hold it: non-finite numbers as an object, integers beyond 2^53 as strings."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _MAX_SAFE_INT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$num": str(value)}
    return value if isinstance(value, str) and is_safe_text(value) else _refuse(where)


# --- reading back -----------------------------------------------------------------------------------------------------


def parse(line: bytes) -> LogRecord:
    """Read one line (without its newline) strictly.

    Raises `IntegrityError` E_AUDIT_RECORD naming the part that is wrong, never its value.
    """
    raw = _canonical(line)
    _shape(raw, _FIELDS, "record", optional=frozenset({"sig"}))
    _expect(type(raw["v"]) is int and raw["v"] == VERSION, "v")
    _expect(type(raw["seq"]) is int and raw["seq"] >= 0, "seq")
    for name, pattern in (("log", _NAME), ("prev", _LEAF), ("ts", _TS)):
        _expect(isinstance(raw[name], str) and pattern.fullmatch(raw[name]) is not None, name)
    _expect(isinstance(raw["event"], str) and raw["event"] in EVENTS, "event")
    _check_signature(raw)
    return LogRecord(
        log=raw["log"],
        seq=raw["seq"],
        prev=raw["prev"],
        ts=raw["ts"],
        event=raw["event"],
        actor=_actor_of(raw["actor"]),
        run=_run_of(raw["run"]),
        subject=tuple(_subject_of(item) for item in _list(raw["subject"], "subject")),
        inputs=tuple(_input_of(item) for item in _list(raw["inputs"], "inputs")),
        data=_data_of(raw["data"]),
        line=line,
    )


_FIELDS: Final = frozenset({"v", "log", "seq", "prev", "ts", "event", "actor", "run", "subject", "inputs", "data"})


class _Numbers:
    """Number hooks for the JSON parser, which refuse a float that RFC 8785 would write otherwise.

    `respelled` collects floats that Python spells in another way, such as 1.5e-07 for 1.5e-7.
    """

    def __init__(self) -> None:
        self.is_simple = True
        self.respelled: set[tuple[str, str]] = set()

    def integer(self, token: str) -> int | float:
        value = int(token)
        if abs(value) <= _MAX_SAFE_INT:
            return value
        self.is_simple = False  # RFC 8785 writes a float such as 1e20 as a run of digits
        return float(token)

    def floating(self, token: str) -> float:
        value = float(token)
        ours = repr(value)
        if ours != token or "e" in ours or ours.endswith(".0"):
            if rfc8785.dumps(value).decode() != token:
                raise ValueError("a number is not canonical")
            self.respelled.add((ours, token))
        return value


def _canonical(line: bytes) -> dict[str, Any]:
    """Return the parsed line after checking that it is exactly the canonical form of what it says."""
    numbers = _Numbers()
    try:
        raw = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_int=numbers.integer,
            parse_float=numbers.floating,
            parse_constant=_no_constant,
        )
        is_same = _fast(raw, numbers) == line or rfc8785.dumps(raw) == line
    except (ValueError, RecursionError):
        raise _problem("not one canonical JSON value") from None
    _expect(isinstance(raw, dict) and is_same, "canonical form")
    return dict(raw)


def _fast(value: object, numbers: _Numbers) -> bytes:
    """RFC 8785 by the C encoder, eight times faster; empty where the two could differ, so that the slow way decides."""
    text = _encode_fast(value)
    if not numbers.is_simple or not text.isascii():
        return b""
    for ours, token in numbers.respelled:
        text = text.replace(f":{ours}", f":{token}")
    return text.encode()


_encode_fast: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _problem(where: str) -> IntegrityError:
    return IntegrityError(f"audit record: {where}", code="E_AUDIT_RECORD", hint="the log was changed or is not ours")


def _expect(is_good: bool, where: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not is_good:
        raise _problem(where)


def _shape(value: object, fields: frozenset[str], where: str, *, optional: frozenset[str] = frozenset()) -> dict[str, Any]:
    if not isinstance(value, dict) or not fields <= set(value) <= fields | optional:
        raise _problem(where)
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _problem(where)
    return value


def _check_signature(raw: Mapping[str, Any]) -> None:
    """A personal decision must carry a signature of the right shape; other records may."""
    if "sig" not in raw:
        _expect(raw["event"] not in PERSONAL, "sig")
        return
    sig = _shape(raw["sig"], frozenset({"alg", "key", "value"}), "sig")
    _expect(sig["alg"] == "ed25519" and isinstance(sig["key"], str) and isinstance(sig["value"], str), "sig")
    _expect(_SHA256.fullmatch(sig["key"]) is not None and len(sig["value"]) == 88, "sig")


def _actor_of(value: object) -> str:
    actor = _shape(value, frozenset({"id", "type", "auth"}), "actor", optional=frozenset({"auth_event"}))
    _expect(all(isinstance(item, str) and len(item) <= MAX_TEXT for item in actor.values()), "actor")
    _expect(actor["type"] in ("human", "service") and actor["auth"] in ("oidc", "key"), "actor")
    return str(actor["id"])


def _run_of(value: object) -> str | None:
    run = _shape(value, frozenset({"tracking", "experiment_id", "run_id"}), "run")
    _expect(all(item is None or isinstance(item, str) for item in run.values()), "run")
    return None if run["run_id"] is None else str(run["run_id"])


def _subject_of(value: object) -> NamedDigest:
    item = _shape(value, frozenset({"name", "digest"}), "subject")
    _expect(isinstance(item["name"], str), "subject")
    role, slash, name = item["name"].partition("/")
    _expect(bool(slash), "subject")
    return _named(role, name, item["digest"], "subject")


def _input_of(value: object) -> NamedDigest:
    item = _shape(value, frozenset({"role", "name", "digest"}), "inputs")
    _expect(isinstance(item["role"], str) and isinstance(item["name"], str), "inputs")
    return _named(item["role"], item["name"], item["digest"], "inputs")


def _named(role: str, name: str, digest: object, where: str) -> NamedDigest:
    sha256 = _shape(digest, frozenset({"sha256"}), where)["sha256"]
    is_good = isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None
    _expect(is_good and _ROLE.fullmatch(role) is not None and _NAME.fullmatch(name) is not None, where)
    return NamedDigest(role=role, name=name, digest=f"sha256:{sha256}")


def _data_of(value: object) -> dict[str, Datum]:
    if not isinstance(value, dict):
        raise _problem("data")
    return {key: _datum_of(key, item) for key, item in value.items()}


def _datum_of(key: str, value: Any) -> Datum:
    _expect(_KEY.fullmatch(key) is not None, "data")
    if isinstance(value, dict):
        _expect(value in ({"$num": "nan"}, {"$num": "inf"}, {"$num": "-inf"}), f"data.{key}")
        return float(value["$num"])
    if isinstance(value, str):
        _expect(is_safe_text(value) or _BIG_INT.fullmatch(value) is not None, f"data.{key}")
        return value
    _expect(value is None or isinstance(value, (bool, int, float)), f"data.{key}")
    return value  # type: ignore[no-any-return]  # narrowed by the line above, which mypy cannot follow
