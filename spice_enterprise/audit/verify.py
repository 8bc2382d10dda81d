"""Offline verification: recompute everything a bundle claims, trusting only the reviewer's own file.

In: a bundle (a workspace or its `audit` folder) and the trust file that the reviewer already holds.
Out: findings that name the object; an empty list means nothing was found wrong.
Refuses: to take any key, root or verdict from the bundle on trust; a bundle or trust file it cannot read (E_BUNDLE).
Not here: personal signatures and witnesses; the heavy libraries: this file runs on a bare machine.

    1. every line is canonical, in its place, after its predecessor, not earlier than it
    2. every checkpoint is signed by the log's key and is the root of a prefix
    3. every head the reviewer kept is the root of a prefix
    4. the state machine replays: generations count up, a PASS stands before a promotion, a rollback goes where one was
    5. each pointer says what the replay says
    6. each adapter file in the bundle has the digest the log names
    7. no decision, and not too much else, lies after the last good checkpoint

What this cannot find: lies told when a record was written, and a rewrite by whoever holds the log key that goes back
no further than the last head seen outside.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from spice_enterprise.audit import checkpoints, records
from spice_enterprise.audit.checkpoints import Trust
from spice_enterprise.audit.log import CHECKPOINT_RECORDS, Tree, leaf_hash
from spice_enterprise.audit.records import LogRecord
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import canonical_json, digest_of

Kind = Literal[
    "CHAIN",
    "SEQ",
    "ROOT",
    "CHECKPOINT_SIG",
    "FORK",
    "TRUNCATED",
    "FOREIGN_RECORD",
    "CLOCK",
    "FILE_DIGEST",
    "POINTER",
    "POINTER_SEQ",
    "GATE",
    "ROLLBACK_TARGET",
    "PARSE",
]
BROKEN_CHAIN: Final = frozenset({"PARSE", "SEQ", "CHAIN", "FOREIGN_RECORD"})
MANIFEST: Final = "manifest.json"
POINTER_KEYS: Final = frozenset(
    {"alias", "generation", "digest", "previous", "adapter_id", "gate_id", "kind", "log_leaf", "at", "signature"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: what kind, which object, what about it. Names and numbers only."""

    kind: Kind
    name: str
    detail: str


def verify(bundle_dir: str | Path, trust_file: str | Path) -> list[Finding]:
    """Check a bundle against a trust file, offline, and return every finding.

    Raises `IntegrityError` E_BUNDLE when either cannot be read at all.
    """
    trust = checkpoints.load_trust(Path(trust_file))
    audit = audit_folder(Path(bundle_dir))
    notes, findings = _read_notes(audit / "checkpoints")
    sizes = {note.head.size for _, note in notes} | {size for size, _ in trust.anchors}
    history = _read_history(audit, trust, sizes)
    heads, unsigned = _signed_heads(notes, history, trust)
    findings += [*history.findings, *unsigned]
    findings += _check_heads(heads, history, trust)
    findings += _check_tail(heads, history)
    findings += _check_pointers(audit.parent / "registry", history.replay.standing, trust)
    findings += _check_adapters(audit.parent, history.replay.adapters)
    return findings


def audit_folder(path: Path) -> Path:
    """Return the audit folder of a workspace, or `path` itself when it is one. Raises `IntegrityError` E_BUNDLE."""
    for folder in (path, path / "audit"):
        if (folder / "records.jsonl").is_file():
            return folder.resolve()
    raise _unreadable(f"{path.name}: holds no audit log")


def _unreadable(message: str) -> IntegrityError:
    return IntegrityError(message, code="E_BUNDLE", hint="pass the workspace, or its audit folder")


# --- 1: the lines -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Before:
    """What the next record must follow."""

    seq: int = -1
    leaf: str = records.EMPTY_LEAF
    ts: str = ""


@dataclass(slots=True, kw_only=True)
class _History:
    """What one pass over the lines leaves: roots where they are asked for, times, decisions, and the replay."""

    origin: str
    replay: "_Replay"
    tree: Tree = field(default_factory=Tree)
    before: _Before = field(default_factory=_Before)
    roots: dict[int, bytes] = field(default_factory=dict)
    times: list[str] = field(default_factory=list)
    decisions: list[tuple[int, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.tree.size

    @property
    def is_clean(self) -> bool:
        return not any(finding.kind in BROKEN_CHAIN for finding in self.findings)


def _read_history(audit: Path, trust: Trust, sizes: Set[int]) -> _History:
    """Check every line in its place, drive the replay with it, and note the root after each of `sizes` records."""
    try:
        *lines, torn = (audit / "records.jsonl").read_bytes().split(b"\n")
    except OSError:
        raise _unreadable("records.jsonl cannot be read") from None
    history = _History(origin=trust.origin, replay=_Replay(trust.policy_digests))
    history.roots[0] = history.tree.root()
    for index, line in enumerate(lines):
        _take_line(f"record {index}", line, history)
        if history.size in sizes:
            history.roots[history.size] = history.tree.root()
    if torn:
        history.findings.append(Finding(kind="PARSE", name=f"record {len(lines)}", detail="the last line is torn"))
    elif not lines:
        history.findings.append(Finding(kind="TRUNCATED", name="record 0", detail="the log is empty"))
    return history


def _take_line(name: str, line: bytes, history: _History) -> None:
    before, leaf = history.before, leaf_hash(line)
    history.tree.append(leaf)
    try:
        record = records.parse(line)
    except IntegrityError as error:
        history.findings.append(Finding(kind="PARSE", name=name, detail=error.message))
        history.before = _Before(before.seq + 1, "sha256:" + leaf.hex(), before.ts)
        history.times.append(before.ts)
        return
    history.findings += _check_place(name, record, history.origin, before)
    history.before = _Before(record.seq, "sha256:" + leaf.hex(), record.ts)
    history.times.append(record.ts)
    if record.event in records.DECISIONS:
        history.decisions.append((history.size - 1, record.event))
    history.findings += history.replay.step(name, record, history.before.leaf)


def _check_place(name: str, record: LogRecord, origin: str, before: _Before) -> Iterator[Finding]:
    if record.log != origin:
        yield Finding(kind="FOREIGN_RECORD", name=name, detail="belongs to another log")
    if record.seq != before.seq + 1:
        yield Finding(kind="SEQ", name=name, detail=f"numbered {record.seq}, expected {before.seq + 1}")
    if record.prev != before.leaf:
        yield Finding(kind="CHAIN", name=name, detail="does not name the leaf before it")
    if record.ts < before.ts:
        yield Finding(kind="CLOCK", name=name, detail=f"{record.ts} is earlier than {before.ts}")


# --- 2, 3, 7: the heads -----------------------------------------------------------------------------------------------

Head = tuple[str, int, bytes]
"""A head that counts as evidence: its name, size and root."""


def _read_notes(folder: Path) -> tuple[list[tuple[str, checkpoints.Note]], list[Finding]]:
    """Return every checkpoint of the bundle by name, and a finding for each file that is none."""
    notes: list[tuple[str, checkpoints.Note]] = []
    findings: list[Finding] = []
    for path in sorted(folder.glob("*.note")):
        name = f"checkpoints/{path.name}"
        try:
            notes.append((name, checkpoints.parse(path.read_bytes())))
        except (IntegrityError, OSError):
            findings.append(Finding(kind="PARSE", name=name, detail="not a checkpoint"))
    return notes, findings


def _signed_heads(
    notes: Sequence[tuple[str, checkpoints.Note]], history: _History, trust: Trust
) -> tuple[list[Head], list[Finding]]:
    """Return the heads that the log's key signed; a note that it did not sign is a finding and no evidence."""
    heads: list[Head] = []
    findings: list[Finding] = []
    for name, note in notes:
        problem = _signature_problem(note, history, trust)
        if problem:
            findings.append(Finding(kind="CHECKPOINT_SIG", name=name, detail=problem))
        else:
            heads.append((name, note.head.size, note.head.root))
    return heads, findings


def _signature_problem(note: checkpoints.Note, history: _History, trust: Trust) -> str:
    if note.head.origin != trust.origin:
        return "of another log"
    signers = [key for key in trust.log_keys if checkpoints.verify(note.text, note.signatures, trust.origin, key.public)]
    if not signers:
        return "not signed by a trusted log key"
    ts = history.times[note.head.size - 1] if 0 < note.head.size <= history.size else ""
    if ts and not any(key.is_valid_at(ts) for key in signers):
        return "signed by a key that was not valid then"
    return ""


def _check_heads(heads: Sequence[Head], history: _History, trust: Trust) -> Iterator[Finding]:
    """Compare every head with the root of the prefix. A clean chain under a wrong head is a second history: a fork."""
    seen: dict[int, bytes] = {}
    for name, size, head in (*heads, *((f"anchor {size}", size, anchor) for size, anchor in trust.anchors)):
        is_second = seen.setdefault(size, head) != head
        if size > history.size:
            yield Finding(kind="TRUNCATED", name=name, detail=f"{size} records were there, {history.size} are")
        elif history.roots[size] != head:
            yield Finding(kind="ROOT", name=name, detail=f"the first {size} records have another root")
            is_second = is_second or history.is_clean
        if is_second:
            yield Finding(kind="FORK", name=name, detail=f"two histories of {size} records")


def _check_tail(heads: Sequence[Head], history: _History) -> Iterator[Finding]:
    """A decision is signed for at once, so one that no good checkpoint covers was added by somebody else."""
    covered = max((size for _, size, head in heads if history.roots.get(size) == head), default=0)
    if history.size - covered > CHECKPOINT_RECORDS:
        detail = f"no good checkpoint covers {history.size - covered} records"
        yield Finding(kind="CHECKPOINT_SIG", name=f"record {covered}", detail=detail)
    for index, event in history.decisions:
        if index >= covered:
            yield Finding(kind="CHECKPOINT_SIG", name=f"record {index}", detail=f"{event} under no good checkpoint")


# --- 4: the replay ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What an alias names after a move, as a pointer must say it."""

    alias: str
    generation: int
    digest: str
    previous: str | None
    adapter_id: str
    gate_id: str
    kind: str
    log_leaf: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    """One gate decision on one digest."""

    gate_id: str
    verdict: str
    policies: frozenset[str]


class _Replay:
    """The state machine that the records drive: gates decide, promotions and rollbacks move aliases."""

    def __init__(self, policy_digests: Sequence[str]) -> None:
        self.standing: dict[str, _Standing] = {}
        self.adapters: dict[str, str] = {}
        self._policies = frozenset(policy_digests)
        self._decisions: dict[str, list[_Decision]] = {}
        self._promoted: dict[str, set[str]] = {}
        self._withdrawn: set[str] = set()

    def step(self, name: str, record: LogRecord, leaf: str) -> list[Finding]:
        """Take one record; return what it was not allowed to do."""
        findings = []
        for item in record.subject:
            if item.role == "adapter" and self.adapters.setdefault(item.name, item.digest) != item.digest:
                findings.append(Finding(kind="FILE_DIGEST", name=name, detail=f"{item.name} had another digest before"))
        if record.event == "gate.decided":
            self._decide(record)
        elif record.event in ("promotion.executed", "rollback.executed"):
            findings += self._move(name, record, leaf)
        elif record.event in ("adapter.retired", "erasure.resolved"):
            self._withdrawn |= {item.digest for item in record.subject}
        return findings

    def _decide(self, record: LogRecord) -> None:
        policies = frozenset(item.digest for item in record.inputs if item.role == "policy")
        decision = _Decision(
            gate_id=str(record.data.get("gate_id", "")), verdict=str(record.data.get("verdict", "")), policies=policies
        )
        for item in record.subject:
            self._decisions.setdefault(item.digest, []).append(decision)

    def _move(self, name: str, record: LogRecord, leaf: str) -> Iterator[Finding]:
        move = _standing_of(record, leaf)
        if move is None:
            yield Finding(kind="PARSE", name=name, detail=f"{record.event} does not say which alias moves, to what")
            return
        before = self.standing.get(move.alias)
        if move.generation != (before.generation if before else 0) + 1:
            yield Finding(kind="POINTER_SEQ", name=name, detail=f"{move.alias}: generation {move.generation} is not the next")
        if move.previous != (before.digest if before else None):
            yield Finding(kind="POINTER_SEQ", name=name, detail=f"{move.alias}: replaces what it did not name")
        refusal = self._gate_refusal(move) if move.kind == "promote" else self._target_refusal(move)
        if refusal:
            kind: Kind = "GATE" if move.kind == "promote" else "ROLLBACK_TARGET"
            yield Finding(kind=kind, name=name, detail=f"{move.adapter_id}: {refusal}")
        self.standing[move.alias] = move
        if move.kind == "promote":
            self._promoted.setdefault(move.alias, set()).add(move.digest)

    def _gate_refusal(self, move: _Standing) -> str:
        """Say why `move` was not allowed: the gate it names must be a PASS for this digest, and still the newest word."""
        decisions = self._decisions.get(move.digest, [])
        named = [d for d in decisions if move.gate_id in (d.gate_id, "")]
        if not named:
            return "no gate decided on this digest"
        if any(d.verdict != "PASS" for d in (named[-1], decisions[-1])):
            return f"the gate said {decisions[-1].verdict}"
        if self._policies and not named[-1].policies & self._policies:
            return "the gate decided under a policy that is not trusted"
        return ""

    def _target_refusal(self, move: _Standing) -> str:
        if move.digest not in self._promoted.get(move.alias, set()):
            return f"was never promoted to {move.alias}"
        return "was withdrawn" if move.digest in self._withdrawn else ""


def _standing_of(record: LogRecord, leaf: str) -> _Standing | None:
    """Read a pointer move; None when it lacks a part."""
    adapter = next((item for item in record.subject if item.role == "adapter"), None)
    alias, generation = record.data.get("alias"), record.data.get("generation")
    replaces, gate_id = record.data.get("replaces"), record.data.get("gate_id")
    if adapter is None or not isinstance(alias, str) or type(generation) is not int or not isinstance(replaces, str):
        return None
    return _Standing(
        alias=alias,
        generation=generation,
        digest=adapter.digest,
        previous=_prefixed(None if replaces == "none" else replaces),
        adapter_id=adapter.name,
        gate_id=str(gate_id or ""),
        kind="promote" if record.event == "promotion.executed" else "rollback",
        log_leaf=leaf,
    )


def _prefixed(digest: object) -> str | None:
    """Return a digest with its algorithm; None stays None."""
    return None if digest is None else "sha256:" + str(digest).removeprefix("sha256:")


# --- 5: pointers ------------------------------------------------------------------------------------------------------


def _check_pointers(registry: Path, standing: Mapping[str, _Standing], trust: Trust) -> Iterator[Finding]:
    """Compare every pointer with the replay; a bundle without a registry has none to compare."""
    if not registry.is_dir():
        return
    found = {path.stem: path for path in sorted(registry.glob("*.json"))}
    for alias in sorted({*found, *standing}):
        name = f"registry/{alias}.json"
        if alias not in found:
            yield Finding(kind="POINTER", name=name, detail="is missing, though the log moved it")
        elif alias not in standing:
            yield Finding(kind="POINTER", name=name, detail="points, though the log never moved it")
        else:
            yield from _check_pointer(name, found[alias], standing[alias], trust)


def _check_pointer(name: str, path: Path, expected: _Standing, trust: Trust) -> Iterator[Finding]:
    pointer = _read_json(path)
    if not isinstance(pointer, dict) or set(pointer) != POINTER_KEYS:
        yield Finding(kind="POINTER", name=name, detail="is not a pointer")
        return
    if not _is_signed(pointer, trust):
        yield Finding(kind="POINTER", name=name, detail="is not signed by a trusted log key")
    said = {**pointer, "digest": _prefixed(pointer["digest"]), "previous": _prefixed(pointer["previous"])}
    for key in ("alias", "generation", "digest", "previous", "adapter_id", "gate_id", "kind", "log_leaf"):
        if said[key] != getattr(expected, key):
            yield Finding(kind="POINTER", name=name, detail=f"{key} is not what the log says")


def _is_signed(pointer: Mapping[str, Any], trust: Trust) -> bool:
    """The registry signs the canonical JSON of all but the signature with the log's key."""
    try:
        text = canonical_json({key: value for key, value in pointer.items() if key != "signature"})
        value = bytes.fromhex(pointer["signature"])
    except (ValueError, TypeError):
        return False
    return any(checkpoints.is_signed(text, value, key.public) for key in trust.log_keys)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


# --- 6: files ---------------------------------------------------------------------------------------------------------


def _check_adapters(workspace: Path, adapters: Mapping[str, str]) -> Iterator[Finding]:
    """Digest every file of every adapter that the log names and the bundle holds."""
    for folder in sorted(workspace.glob("*/adapters/*")):
        if folder.name in adapters and folder.is_dir():
            name = f"{folder.parent.parent.name}/adapters/{folder.name}"
            for problem in _adapter_problems(folder, adapters[folder.name]):
                yield Finding(kind="FILE_DIGEST", name=name, detail=problem)


def _adapter_problems(folder: Path, digest: str) -> Iterator[str]:
    manifest = _read_json(folder / MANIFEST)
    entries = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        yield f"{MANIFEST} is missing or unreadable"
        return
    if digest_of(sorted(entries, key=lambda entry: str(entry["path"]))) != digest:
        yield f"{MANIFEST} is not the one the log names"
    listed = {entry["path"] for entry in entries}
    yield from (f"{name} is not in the manifest" for name in sorted({p.name for p in folder.iterdir()} - listed - {MANIFEST}))
    for entry in entries:
        if not _is_same(folder / entry["path"], entry):
            yield f"{entry['path']} is missing or changed"


def _is_entry(entry: object) -> bool:
    """True for a manifest entry whose path is a plain name: a bundle may not make us read elsewhere."""
    if not isinstance(entry, dict) or set(entry) != {"path", "sha256", "size_bytes"}:
        return False
    return isinstance(entry["path"], str) and entry["path"] == Path(entry["path"]).name and entry["path"] not in ("", "..")


def _is_same(path: Path, entry: Mapping[str, Any]) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry["size_bytes"]:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(entry["sha256"])
