"""The transparency log: an append-only file under an RFC 6962 tree.

In: audit events, one at a time, from any number of processes.
Out: the leaf hash of each record, on disk before it is returned; tree heads; proofs.
Refuses: to go on from a file that does not extend its last checkpoint, or that shrank or changed under it.
Not here: the record's form (`audit/records.py`), signing heads (`audit/checkpoints.py`), judging a log (`audit/verify.py`).

    folder/
      lock                held for the moment of one append
      records.jsonl       one canonical record per line
      checkpoints/        <size>.note, written once

A leaf is SHA-256(0x00 | record bytes), a node SHA-256(0x01 | left | right), the empty root SHA-256 of nothing.
"""

import fcntl
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from spice_enterprise import durable
from spice_enterprise.audit import checkpoints, records
from spice_enterprise.errors import IntegrityError
from spice_enterprise.records import AuditEvent

CHECKPOINT_RECORDS: Final = 256
CHECKPOINT_S: Final = 60.0
"""A checkpoint is due after so many records, or so many seconds, or a decision, whichever comes first."""


def leaf_hash(record: bytes) -> bytes:
    """Return the RFC 6962 hash of one leaf."""
    return hashlib.sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the RFC 6962 hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A growing RFC 6962 tree that keeps only the roots of its perfect subtrees: log2(n) hashes."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add one leaf *hash*, in O(log n)."""
        carry, position = leaf, self.size
        while position & 1:
            carry = node_hash(self._peaks.pop(), carry)
            position >>= 1
        self._peaks.append(carry)
        self.size += 1

    def root(self) -> bytes:
        """Return the tree head."""
        if not self._peaks:
            return hashlib.sha256(b"").digest()
        head = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            head = node_hash(peak, head)
        return head


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 tree hash; `leaves` are the record bytes. No leaves give SHA-256 of the empty string."""
    return _root_of([leaf_hash(leaf) for leaf in leaves])


def _root_of(hashes: Sequence[bytes]) -> bytes:
    tree = Tree()
    for item in hashes:
        tree.append(item)
    return tree.root()


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of leaf `index` (RFC 6962, 2.1.1), lowest first. Raises `IndexError` outside the tree."""
    if not 0 <= index < len(leaves):
        raise IndexError("no such leaf")
    return _path([leaf_hash(leaf) for leaf in leaves], index)


def _path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = _split(len(hashes))
    if index < k:
        return [*_path(hashes[:k], index), _root_of(hashes[k:])]
    return [*_path(hashes[k:], index - k), _root_of(hashes[:k])]


def verify_inclusion(record: bytes, index: int, size: int, proof: Sequence[bytes], head: bytes) -> bool:
    """True when `proof` shows that `record` is leaf `index` of the tree of `size` with root `head` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, current = index, size - 1, leaf_hash(record)
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and current == head


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return the proof that the first `old_size` leaves are a prefix (RFC 6962, 2.1.2). Raises `IndexError` when they are not."""
    if not 0 < old_size <= len(leaves):
        raise IndexError("no such prefix")
    return _prefix_proof([leaf_hash(leaf) for leaf in leaves], old_size, is_whole=True)


def _prefix_proof(hashes: Sequence[bytes], old_size: int, *, is_whole: bool) -> list[bytes]:
    if old_size == len(hashes):
        return [] if is_whole else [_root_of(hashes)]
    k = _split(len(hashes))
    if old_size <= k:
        return [*_prefix_proof(hashes[:k], old_size, is_whole=is_whole), _root_of(hashes[k:])]
    return [*_prefix_proof(hashes[k:], old_size - k, is_whole=False), _root_of(hashes[:k])]


def verify_consistency(old: tuple[int, bytes], new: tuple[int, bytes], proof: Sequence[bytes]) -> bool:
    """True when `proof` shows that head `old` is a prefix of head `new`; a head is (size, root) (RFC 9162, 2.1.4.2)."""
    (old_size, old_root), (size, head) = old, new
    if old_size == size:
        return not proof and old_root == head
    if not 0 < old_size < size or not proof:
        return False
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    seed, *rest = path
    return _climb(node, last, seed, rest) == (old_root, head)


def _climb(node: int, last: int, seed: bytes, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Rebuild both roots from a consistency path; None when the path does not fit the two sizes."""
    old = new = seed
    for sibling in path:
        if last == 0:
            return None
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return (old, new) if last == 0 else None


class TransparencyLog:
    """The `AuditSink` of a workspace. Opening is cheap; the file is read at the first append and after others' appends."""

    def __init__(self, folder: Path, *, origin: str, key: bytes, actor: str, clock: Callable[[], datetime]) -> None:
        self._folder, self._file = folder, folder / "records.jsonl"
        self._origin, self._key, self._actor, self._clock = origin, key, actor, clock
        self._threads = threading.Lock()
        self._tree = Tree()
        self._read_bytes = 0
        self._last_leaf, self._last_ts = records.EMPTY_LEAF, ""
        self._signed_size, self._signed_at = 0, ""
        self._owes_checkpoint = False

    @property
    def size(self) -> int:
        """Records known to this object."""
        return self._tree.size

    def head(self) -> tuple[int, str]:
        """Return how many records the log holds, and its root as `sha256:<hex>`."""
        with self._locked():
            self._catch_up()
            return self._tree.size, f"sha256:{self._tree.root().hex()}"

    def since(self, size: int, root: str) -> "Later":
        """Return the events after the head (`size`, `root`).

        Raises `IntegrityError` E_AUDIT_CHAIN when the log does not continue that head.
        """
        with self._locked():
            self._catch_up()
            lines = durable.read_lines(self._file)
        if size and (len(lines) < size or f"sha256:{_root_of([leaf_hash(line) for line in lines[:size]]).hex()}" != root):
            raise _broken(f"{self._file}: does not continue the head of {size} records that the run remembers")
        return Later([records.parse(line) for line in lines[size:]])

    def append(self, event: AuditEvent) -> str:
        """Write `event` durably and return its leaf, `sha256:<hex>`.

        Raises `StoreError` (see `records.encode`) for an event that may not be logged, and `IntegrityError`
        E_AUDIT_CHAIN when the file is not the one that was signed.
        """
        records.encode(event, self._position())  # refuse before anything is touched
        with self._locked():
            torn_bytes = self._catch_up()
            if self._tree.size == 0:
                self._write(AuditEvent(event="log.opened", run=event.run))
            if torn_bytes:
                self._write(_torn_tail(torn_bytes))
            leaf = self._write(event)
            if self._is_checkpoint_due():
                self._sign_checkpoint()
            return leaf

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the log against other threads and other processes."""
        durable.make_folder(self._folder)
        with self._threads, (self._folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _position(self) -> records.Position:
        # a clock that was set back must not make the log look tampered with: wall time is only a label
        ts = max(records.timestamp(self._clock()), self._last_ts)
        return records.Position(log=self._origin, seq=self._tree.size, prev=self._last_leaf, ts=ts, actor=self._actor)

    def _write(self, event: AuditEvent) -> str:
        position = self._position()
        line = records.encode(event, position)
        durable.append_lines(self._file, [line])
        self._take(line, event.event, position.ts)
        return self._last_leaf

    def _take(self, line: bytes, event: str, ts: str) -> None:
        """Take a written record into the tree."""
        leaf = leaf_hash(line)
        self._read_bytes += len(line) + 1
        self._tree.append(leaf)
        self._last_leaf, self._last_ts = "sha256:" + leaf.hex(), ts
        self._signed_at = self._signed_at or ts
        self._owes_checkpoint = self._owes_checkpoint or event in records.DECISIONS

    def _catch_up(self) -> int:
        """Read what was appended since, by others or before this object was made.

        A torn last line is cut off; returns how many bytes went.
        """
        torn_bytes = durable.drop_torn_tail(self._file) if self._is_torn() else 0
        if self._read_bytes == 0:
            self._load_signed_prefix()
        for line in self._new_lines():
            record = self._expect_next(line)
            self._take(line, record.event, record.ts)
        return torn_bytes

    def _is_torn(self) -> bool:
        if not self._file.exists() or self._file.stat().st_size == self._read_bytes:
            return False
        with self._file.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) != b"\n"

    def _new_lines(self) -> list[bytes]:
        size = self._file.stat().st_size if self._file.exists() else 0
        if size < self._read_bytes:
            raise _broken(f"{self._file}: shorter than what was written")
        if size == self._read_bytes:
            return []
        with self._file.open("rb") as file:
            file.seek(self._read_bytes)
            return file.read().split(b"\n")[:-1]

    def _expect_next(self, line: bytes) -> records.LogRecord:
        """Parse a record that another process wrote: it must continue this log."""
        record = records.parse(line)
        if (record.log, record.seq, record.prev) != (self._origin, self._tree.size, self._last_leaf):
            raise _broken(f"{self._file}: record {self._tree.size} does not continue the log")
        return record

    def _load_signed_prefix(self) -> None:
        """Take in the records under the newest signed head. Refuse to extend a file that this head does not cover."""
        sizes = [int(p.stem) for p in (self._folder / "checkpoints").glob("*.note") if p.stem.isdigit()]
        if not sizes:
            return
        name = f"{max(sizes)}.note"
        note = checkpoints.parse((self._folder / "checkpoints" / name).read_bytes())
        lines = durable.read_lines(self._file)[: note.head.size]
        is_ours = checkpoints.verify(note.text, note.signatures, self._origin, checkpoints.public_key(self._key))
        if not is_ours or len(lines) < max(1, note.head.size) or root(lines) != note.head.root:
            raise _broken(f"{self._file}: does not extend the head signed in {name}")
        last = records.parse(lines[-1])
        for line in lines:
            self._take(line, last.event, last.ts)
        self._signed_size, self._signed_at, self._owes_checkpoint = note.head.size, last.ts, False

    def _is_checkpoint_due(self) -> bool:
        """A decision left unsigned by a crash is made good here too."""
        waited_s = (_moment(self._last_ts) - _moment(self._signed_at)).total_seconds()
        return self._owes_checkpoint or self._tree.size - self._signed_size >= CHECKPOINT_RECORDS or waited_s >= CHECKPOINT_S

    def _sign_checkpoint(self) -> None:
        """Write the signed head of the present size, once."""
        head = checkpoints.Head(origin=self._origin, size=self._tree.size, root=self._tree.root())
        path = self._folder / "checkpoints" / f"{head.size}.note"
        note = checkpoints.sign(head, self._key)
        if path.exists() and path.read_bytes() != note:
            raise _broken(f"{path}: another head of this size is signed already")
        durable.write_file(path, note)
        self._signed_size, self._signed_at, self._owes_checkpoint = head.size, self._last_ts, False


class Later:
    """Some records of a log, asked by what they say."""

    def __init__(self, found: Sequence[records.LogRecord]) -> None:
        self._found = found

    def __contains__(self, event: object) -> bool:
        """True when one of the records says exactly this."""
        return isinstance(event, AuditEvent) and any(
            record.event == event.event and records.encode(event, records.position_of(record)) == record.line
            for record in self._found
        )


def _torn_tail(dropped_bytes: int) -> AuditEvent:
    return AuditEvent(event="incident.opened", run="", data=(("kind", "torn_tail"), ("dropped_bytes", dropped_bytes)))


def _moment(ts: str) -> datetime:
    return datetime.strptime(ts, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def _broken(message: str) -> IntegrityError:
    return IntegrityError(message, code="E_AUDIT_CHAIN", hint="run `spice-enterprise audit verify`; restore the log from a copy")
