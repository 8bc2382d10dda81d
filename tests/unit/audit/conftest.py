"""A small workspace with a true history: two promotions and a rollback, their pointers, adapters and trust file."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spice_enterprise.audit import checkpoints
from spice_enterprise.audit.log import TransparencyLog
from spice_enterprise.audit.verify import Finding, verify
from spice_enterprise.records import AuditEvent, NamedDigest, canonical_json, digest_of

ORIGIN = "spice.audit/test"
KEY = bytes(range(32))
POLICY = NamedDigest(role="policy", name="gate", digest="sha256:" + "ab" * 32)


@dataclass
class Clock:
    """One second later at each look."""

    now: datetime = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@dataclass
class Workspace:
    root: Path
    clock: Clock = field(default_factory=Clock)
    pointers: dict[str, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checkpoints.write_trust_file(self.trust, origin=ORIGIN, key=KEY, clock=self.clock)
        self.log = self.open_log()

    @property
    def trust(self) -> Path:
        return self.root / "trust.json"

    @property
    def records(self) -> Path:
        return self.root / "audit" / "records.jsonl"

    @property
    def notes(self) -> list[Path]:
        return sorted((self.root / "audit" / "checkpoints").glob("*.note"), key=lambda path: int(path.stem))

    def open_log(self, key: bytes = KEY, folder: str = "audit", clock: Callable[[], datetime] | None = None) -> TransparencyLog:
        return TransparencyLog(self.root / folder, origin=ORIGIN, key=key, actor="service:test", clock=clock or self.clock)

    def lines(self) -> list[bytes]:
        return self.records.read_bytes().splitlines()

    def write(self, lines: list[bytes]) -> None:
        self.records.write_bytes(b"".join(line + b"\n" for line in lines))

    def kinds(self) -> set[str]:
        return {finding.kind for finding in self.findings()}

    def findings(self) -> list[Finding]:
        return verify(self.root, self.trust)

    def set_trust(self, **changes: object) -> None:
        self.trust.write_text(json.dumps({**json.loads(self.trust.read_bytes()), **changes}), encoding="utf-8")

    def adapter(self, name: str) -> NamedDigest:
        """Write an adapter directory once and return how events name it."""
        folder = self.root / "job" / "adapters" / name
        data = f"weights of {name}".encode()
        entry = {"path": "adapter.safetensors", "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter.safetensors").write_bytes(data)
        (folder / "manifest.json").write_bytes(canonical_json({"schema": 1, "files": [entry]}))
        return NamedDigest(role="adapter", name=name, digest=digest_of([entry]))

    def gate(self, name: str, verdict: str = "PASS", gate_id: str | None = None) -> None:
        data = (("gate_id", gate_id or f"gate_{name}"), ("verdict", verdict), ("primary", "domain_gain"))
        self.log.append(AuditEvent(event="gate.decided", run="job", subject=(self.adapter(name),), inputs=(POLICY,), data=data))

    def move(self, name: str, event: str = "promotion.executed", alias: str = "prod", **changes: object) -> None:
        """Log a pointer move and write the pointer, as a registry would; `changes` make the record lie."""
        before = self.pointers.get(alias, {"generation": 0, "digest": None})
        subject = self.adapter(name)
        said = {
            "alias": alias,
            "generation": int(str(before["generation"])) + 1,
            "replaces": before["digest"] or "none",
            "gate_id": f"gate_{name}",
            **changes,
        }
        leaf = self.log.append(AuditEvent(event=event, run="job", subject=(subject,), data=tuple(said.items())))
        self.pointers[alias] = {
            "alias": alias,
            "generation": said["generation"],
            "digest": subject.digest,
            "previous": before["digest"],
            "adapter_id": name,
            "gate_id": said["gate_id"],
            "kind": "promote" if event == "promotion.executed" else "rollback",
            "log_leaf": leaf,
            "at": "2026-11-21T06:00:00+00:00",
        }
        self.write_pointer(alias)

    def write_pointer(self, alias: str, key: bytes = KEY, **changes: object) -> None:
        content = {**self.pointers[alias], **changes}
        signature = Ed25519PrivateKey.from_private_bytes(key).sign(canonical_json(content)).hex()
        (self.root / "registry").mkdir(exist_ok=True)
        (self.root / "registry" / f"{alias}.json").write_bytes(canonical_json({**content, "signature": signature}))


@pytest.fixture
def empty(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture
def workspace(empty: Workspace) -> Workspace:
    """A workspace in which everything is as it should be."""
    for name in ("adapter_one", "adapter_two"):
        empty.log.append(AuditEvent(event="checkpoint.saved", run="job", subject=(empty.adapter(name),), data=(("step", 1),)))
        empty.gate(name)
        empty.move(name)
    empty.move("adapter_one", "rollback.executed")
    empty.log.append(AuditEvent(event="run.ended", run="job", data=(("status", "finished"),)))
    return empty
